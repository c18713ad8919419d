"""A Hugging Face hub on the loopback interface, with one repository and faults on demand."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

COMMIT = "c0ffee" + 34 * "0"
REPOSITORY = "someone/their-net"
Fault = Callable[["Handler"], bool]
"""Handles a request in place of the hub; False: the hub answers as usual."""


class FakeHub:
    """``files``: what the repository holds; ``asked``: (method, file, value of Range) of every request."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str, str | None]] = []
        self.fault: Fault | None = None
        self.released = threading.Event()
        self.url = ""

    def fetched(self, name: str) -> list[str | None]:
        """Value of Range of each GET of a file."""
        return [span for method, file, span in self.asked if (method, file) == ("GET", name)]


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does: the hash of large files is their SHA-256, of small ones that of git."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    @property
    def file(self) -> str:
        return self.path.split("?")[0].rsplit("/", 1)[-1]

    def _respond(self) -> None:
        self.hub.asked.append((self.command, self.file, self.headers.get("Range")))
        if self.hub.fault is not None and self.hub.fault(self):
            return
        if not self.path.startswith(f"/{REPOSITORY}/resolve/"):
            return self.refuse(404, "RepoNotFound")
        if self.path.split("/")[4] not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if self.file not in self.hub.files:
            return self.refuse(404, "EntryNotFound")
        self.send(self.hub.files[self.file])

    def refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes, stop_after: int | None = None) -> None:
        """The file, or what is left of it; ``stop_after``: bytes after which the connection breaks."""
        whole = self.hub.files[self.file]
        start = int(span.removeprefix("bytes=").split("-")[0]) if (span := self.headers.get("Range")) else 0
        self.send_response(206 if start else 200)
        large = self.file.endswith(".safetensors")
        git = hashlib.sha1(b"blob %d\0" % len(whole) + whole)
        self.send_header("ETag", f'"{(hashlib.sha256(whole) if large else git).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:] if stop_after is None else content[start : start + stop_after])
        if stop_after is not None:
            self.close_connection = True


def refusing(status: int, *, of: str = "HEAD GET", code: str = "") -> Fault:
    """Every request of the methods ``of`` is answered with an HTTP status."""

    def fault(request: Handler) -> bool:
        if request.command not in of.split():
            return False
        request.refuse(status, code)
        return True

    return fault


def breaking(after: int, times: int) -> Fault:
    """The connection breaks ``after`` bytes of the weights, ``times`` times."""
    left = [times]

    def fault(request: Handler) -> bool:
        if request.command != "GET" or not request.file.endswith(".safetensors") or not left[0]:
            return False
        left[0] -= 1
        request.send(request.hub.files[request.file], stop_after=after)
        return True

    return fault


def altering(times: int) -> Fault:
    """One byte of the weights changes on the way, ``times`` times."""
    left = [times]

    def fault(request: Handler) -> bool:
        if request.command != "GET" or not request.file.endswith(".safetensors") or not left[0]:
            return False
        left[0] -= 1
        content = bytearray(request.hub.files[request.file])
        content[-3] ^= 1
        request.send(bytes(content))
        return True

    return fault


def silent(of: str) -> Fault:
    """Requests of the method ``of`` get no answer until the test ends."""

    def fault(request: Handler) -> bool:
        if request.command != of:
            return False
        request.hub.released.wait(30)
        request.close_connection = True
        return True

    return fault


def babbling(of: str) -> Fault:
    """Requests of the method ``of`` are answered with something other than HTTP."""

    def fault(request: Handler) -> bool:
        if request.command != of:
            return False
        request.wfile.write(b"this is no answer\r\n\r\n")
        request.close_connection = True
        return True

    return fault


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """The hub, with its address in ``url``."""
    hub = FakeHub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub of this process use another hub, as ``HF_ENDPOINT`` does at its import."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
