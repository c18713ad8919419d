"""Which requests are answered: those of our own page, in a browser on this machine.

A page of somebody else may send requests to any address of this machine, and its name may lead to 127.0.0.1 (DNS
rebinding). So the path of every request begins with a random token that only our page knows; ``Host`` has to be a name
of this machine, and ``Origin``, where a browser sends one, our own; what changes something has to have it.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus

LARGEST_BODY = 2**18
"""Bytes of a request: a stroke of some thousand places."""
LONGEST_PATH = 400
_NAMES = ("127.0.0.1", "localhost")
_KIND = "application/json"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: the page loads nothing from elsewhere, and nobody else may show or read it."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: HTTPStatus
    why: str


def new_token() -> str:
    """A random word of 32 hexadecimal digits."""
    return secrets.token_hex(16)


def refusal(method: str, path: str, headers: Message, token: str) -> Refusal | None:
    """Why a request is refused, by its head; None: it is one of ours."""
    host = headers.get("Host") or ""
    if host.rsplit(":", 1)[0] not in _NAMES:
        return Refusal(HTTPStatus.FORBIDDEN, "this page is served to this machine only: open it at 127.0.0.1")
    origin, own = headers.get("Origin"), f"http://{host}"
    if origin is not None and origin != own:
        return Refusal(HTTPStatus.FORBIDDEN, "another page may not ask this")
    if headers.get("Sec-Fetch-Site") not in (None, "same-origin", "none"):
        return Refusal(HTTPStatus.FORBIDDEN, "another page may not ask this")
    if len(path) > LONGEST_PATH or not has_token(path, token):
        return Refusal(HTTPStatus.FORBIDDEN, "open the whole address that the editor has printed, with its token")
    if method == "POST":
        return _refusal_of_body(headers, origin)
    return None


def has_token(path: str, token: str) -> bool:
    """Whether the first part of a path is the token; takes as long for a wrong one."""
    given = path.split("?", 1)[0].split("/", 2)[1] if path.startswith("/") else ""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _refusal_of_body(headers: Message, origin: str | None) -> Refusal | None:
    if origin is None:
        return Refusal(HTTPStatus.FORBIDDEN, "a change has to come from the page")
    if (headers.get("Content-Type") or "").split(";")[0].strip().lower() != _KIND:
        return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a change is {_KIND}")
    if headers.get("Transfer-Encoding") is not None:
        return Refusal(HTTPStatus.LENGTH_REQUIRED, "a change says its length")
    length = headers.get("Content-Length") or ""
    if not (length.isascii() and length.isdecimal()):
        return Refusal(HTTPStatus.LENGTH_REQUIRED, "a change says its length")
    if len(length) > 12 or int(length) > LARGEST_BODY:
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a change has at most {LARGEST_BODY} bytes")
    return None
