"""Serves the page of `easi3r edit` at 127.0.0.1: known names only, no file of the disk."""

from __future__ import annotations

import json
import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..core.errors import Easi3RError
from ..storage.files import jsonable
from .desk import Answer, Desk, UnknownError
from .fields import body_of
from .guard import HEADERS, Refusal, new_token, refusal
from .jobs import BusyError, our_mistake

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
INDEX = "index.html"
PATIENCE = 30
"""Seconds after which a connection that says nothing is closed."""
_FACTS = ("state", "job", "verdict")


def page_files() -> dict[str, Answer]:
    """Name -> file of the page, read once."""
    files = (file for file in sorted(PAGE.iterdir()) if file.suffix in KINDS)
    return {file.name: Answer(f"{KINDS[file.suffix]}; charset=utf-8", file.read_bytes()) for file in files}


class EditServer(ThreadingHTTPServer):
    """Listens at a port of this machine and answers from a desk."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, desk: Desk, port: int) -> None:
        """``port``: 0 lets the system choose. Raises OSError where it is taken."""
        self.desk, self.token, self.files = desk, new_token(), page_files()
        super().__init__((LOOPBACK, port), Handler)

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/{self.token}/"

    def begin(self) -> threading.Thread:
        """Answer requests in a thread of its own, until ``shutdown``."""
        thread = threading.Thread(target=self.serve_forever, name="easi3r edit", daemon=True)
        thread.start()
        return thread

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no event."""
        logger.debug("a request ended early", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: EditServer
    server_version, sys_version = "easi3r", ""
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def do_GET(self) -> None:  # noqa: N802 (the name is that of the standard library)
        """A file of the page, a picture, or facts as JSON."""
        name = self._allowed()
        if name is None:
            return
        desk = self.server.desk
        if name in ("", INDEX):
            self._send(self.server.files[INDEX])
        elif name in self.server.files:
            self._send(self.server.files[name])
        else:
            self._answer(lambda: self._facts(desk.facts(name)) if name in _FACTS else desk.file(name))

    def do_POST(self) -> None:  # noqa: N802
        """A change."""
        name = self._allowed()
        if name is not None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(lambda: self._facts(self.server.desk.change(name, body_of(content))))

    def _allowed(self) -> str | None:
        """The name that is asked for; None where the request was refused."""
        refused = refusal(self.command, self.path, self.headers, self.server.token)
        if refused is not None:
            self._refuse(refused)
            return None
        path = self.path.split("?", 1)[0]
        if path.count("/") < 2:
            self._to_slash()
            return None
        return path.split("/", 2)[2]

    def _to_slash(self) -> None:
        """The address without its last slash: names on the page would lead elsewhere."""
        self.send_response(HTTPStatus.MOVED_PERMANENTLY)
        self.send_header("Location", f"/{self.server.token}/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, make: Any) -> None:
        try:
            answer = make()
        except UnknownError as error:
            self._refuse(Refusal(HTTPStatus.NOT_FOUND, str(error)))
        except BusyError as error:
            self._refuse(Refusal(HTTPStatus.CONFLICT, str(error)))
        except Easi3RError as error:
            self._refuse(Refusal(HTTPStatus.BAD_REQUEST, str(error)))
        except Exception as error:
            logger.exception("a request of the page failed")
            self._refuse(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, our_mistake(error)))
        else:
            self._send(answer)

    @staticmethod
    def _facts(value: Any) -> Answer:
        return Answer("application/json", json.dumps(jsonable(value), allow_nan=False).encode())

    def _refuse(self, refused: Refusal) -> None:
        # What may follow in the connection was not read.
        self.close_connection = True
        self._send(self._facts({"error": refused.why}), refused.status)

    def _send(self, answer: Answer, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.content)))
        # Addresses of pictures hold the version of what they show.
        lasting = answer.kind.startswith("image/") and "?" in self.path and status == HTTPStatus.OK
        self.send_header("Cache-Control", "private, max-age=86400, immutable" if lasting else "no-store")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are details."""
        logger.debug(format, *args)
