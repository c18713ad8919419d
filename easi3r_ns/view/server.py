"""A viser server on a free port that serves its own pages only: no public tunnel, no tracker, no other files."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import viser

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PORT = 8080
_PORTS_TRIED = 100
_BUFFER = 2**32
"""Bytes that may wait to be sent to a browser."""

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)
_STYLE = "<style>button:has(.tabler-icon-share) { display: none }</style>"


def free_port(host: str, first: int) -> int:
    """The first port from ``first`` on at which ``host`` can be served; 0 lets the system choose.

    Raises InputError when the address is not one of this machine, or no port is free.
    """
    if not 0 <= first <= 65535:
        raise InputError(f"--port {first}: give a number from 0 (any) to 65535")
    for port in range(first, min(first + _PORTS_TRIED, 65536)):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return probe.getsockname()[1]
        except (socket.gaierror, UnicodeError) as error:
            raise InputError(f"--host {host}: no such address ({error})") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(
                    f"--host {host}: not an address of this machine; 0.0.0.0 serves at all of them"
                ) from error
    raise InputError(
        f"--port {first}: neither this port nor the {_PORTS_TRIED - 1} above it are free; give another one"
    )


def url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens at ``host``."""
    shown = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def serve(host: str, port: int) -> viser.ViserServer:
    """Start a viser server that prints nothing.

    viser 0.2.7 serves any file that a path with ``..`` leads to, loads a tracker from the internet into its page, has a
    button that opens a public tunnel, and drops the connection of a browser that reads large scenes slowly. This server
    serves its own pages only, without the tracker and the button, and waits for the browser.

    Raises MissingExtraError when viser does not load.
    """
    try:
        import viser
        import viser.infra
    except ImportError as error:
        raise MissingExtraError(f"viser does not load ({error}): pip install viser") from error

    class Pages(viser.infra.WebsockServer):
        def __init__(self, *args: Any, **options: Any) -> None:
            options["http_server_root"] = SitePages(options["http_server_root"])
            super().__init__(*args, **options)
            self.on_client_connect(lambda _: _never_pause(self._ws_server))

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            logger.warning("a browser asked for a public address; easi3r view gives none")

    # ViserServer has no argument for the folder that it serves; it looks this class up when it is made.
    original = viser.infra.WebsockServer
    try:
        viser.infra.WebsockServer = Pages
        with contextlib.redirect_stdout(io.StringIO()):
            return Server(host=host, port=port, label="easi3r", verbose=False)
    finally:
        viser.infra.WebsockServer = original


def _never_pause(server: Any) -> None:
    """Let the connections of a server buffer as many bytes as a scene has.

    viser sends to a browser from two tasks. When both wait for a full buffer to drain, websockets (from 13 on, in its
    legacy server) fails an assertion and the connection is lost; a buffer that is never full keeps them from waiting.
    """
    for connection in getattr(server, "websockets", ()):
        connection.transport.set_write_buffer_limits(high=_BUFFER)


class SitePages:
    """Replaces the path of viser's folder of pages: gives files inside it only, and a changed first page."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        page = (self._root / "index.html").read_text(encoding="utf-8")
        page = _SCRIPT.sub(lambda script: "" if "gtag" in script[0] else script[0], _COMMENT.sub("", page))
        page = re.sub(r"<title>.*?</title>", "<title>easi3r</title>", page).replace("</head>", f"{_STYLE}</head>")
        self._index = _PageFile(page.encode())

    def __truediv__(self, name: str) -> Path | _PageFile:
        if name == "index.html":
            return self._index
        path = (self._root / name).resolve()
        return path if self._root in path.parents and path.is_file() else _PageFile(None)


class _PageFile:
    """The methods of a path that viser's server calls, for a content in memory; None stands for a missing file."""

    def __init__(self, content: bytes | None) -> None:
        self._content = content

    def exists(self) -> bool:
        return self._content is not None

    def read_bytes(self) -> bytes:
        return self._content or b""
