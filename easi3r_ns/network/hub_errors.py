"""What went wrong with a download, in one line with the remedy.

An error is recognised by the names of its classes and of its causes, its HTTP status and its ``errno``: releases of
huggingface_hub use different HTTP libraries, and each has classes of its own.
"""

from __future__ import annotations

import errno
import ssl
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from ..core.errors import shortened

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
_LOG_IN = "log in with `hf auth login`, or put a token into HF_TOKEN"


def endpoint() -> str:
    """The hub in use: that of ``HF_ENDPOINT``, else the public one."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def told(error: BaseException, what: str) -> str:
    """One line: what failed, with the value, and the remedy.

    Args:
        error: raised by huggingface_hub or a library under it.
        what: OWNER/NAME/FILE.
    """
    chain = list(_causes(error))
    names = {base.__name__ for each in chain for base in type(each).__mro__}
    if (status := _status(chain)) is not None:
        return _refused(status, names, what)
    return _of_disk(chain) or _of_connection(chain, names, what)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(chain: list[BaseException]) -> int | None:
    codes = (getattr(getattr(each, "response", None), "status_code", None) for each in chain)
    return next((code for code in codes if isinstance(code, int) and code >= 400), None)


def _refused(status: int, names: set[str], what: str) -> str:
    repository = what.rsplit("/", 1)[0]
    says = f"{endpoint()} answers {status}"
    if "GatedRepoError" in names or status == 403:
        return f"{says} for {repository}: access has to be granted; accept its terms on its page and {_LOG_IN}"
    if "RevisionNotFoundError" in names:
        return f"{says}: {repository} has no such revision; check the part after @"
    if "EntryNotFoundError" in names:
        return f"{says}: {what} does not exist; the repository has to hold its weights as model.safetensors"
    if status == 401 or "RepositoryNotFoundError" in names:
        return f"{says}: there is no repository {repository}, or it is private; check the name, or {_LOG_IN}"
    if status == 429:
        return f"{says} for {what}: too many requests; wait some minutes and try again, or {_LOG_IN}"
    if status >= 500:
        return f"{says} for {what}: the server is at fault; try again later, or name a mirror in HF_ENDPOINT"
    return f"{says} for {what}; check HF_ENDPOINT and your proxy"


def _of_disk(chain: list[BaseException]) -> str | None:
    from huggingface_hub import constants

    for each in chain:
        # The number of an error of OpenSSL is one of its own, and means nothing to the system.
        number = each.errno if isinstance(each, OSError) and not isinstance(each, ssl.SSLError) else None
        if number in _FULL:
            return f"no space is left in {constants.HF_HUB_CACHE}; free some, or set HF_HUB_CACHE to another disk"
        if number in _NOT_WRITABLE:
            reason = shortened(str(each))
            return f"{constants.HF_HUB_CACHE} cannot be written ({reason}); set HF_HUB_CACHE to a folder that can"
    return None


def _of_connection(chain: list[BaseException], names: set[str], what: str) -> str:
    root = chain[-1]
    said = shortened(next((str(each) for each in chain if str(each).strip()), type(root).__name__))
    deepest = shortened(str(root)) or type(root).__name__
    if "OfflineModeIsEnabled" in names:
        return "downloads are switched off (HF_HUB_OFFLINE); unset it"
    if "ProxyError" in names:
        return f"the proxy {_proxies()} does not let the download through ({deepest}); check HTTPS_PROXY and NO_PROXY"
    if "SSLError" in names or "CERTIFICATE" in deepest or "[SSL" in deepest:
        return (
            f"no secure connection to {endpoint()} ({deepest}); behind a proxy, give its certificate in SSL_CERT_FILE"
        )
    if any("Xet" in name for name in names) or (type(chain[0]) is RuntimeError):
        return f"Xet, the hub's storage, failed for {what} ({said}); set HF_HUB_DISABLE_XET=1 and try again"
    if names & {"TimeoutException", "Timeout", "TimeoutError"}:
        return f"{endpoint()} stopped answering while {what} was fetched; try again, or set HF_HUB_DOWNLOAD_TIMEOUT"
    if names & {
        "ProtocolError",
        "IncompleteRead",
        "ReadError",
        "WriteError",
        "ChunkedEncodingError",
        "RemoteProtocolError",
    }:
        return f"the connection to {endpoint()} broke while {what} was fetched ({deepest}); try again"
    if names & {"ConnectError", "ConnectionError", "NetworkError"}:
        through = f" through the proxy {_proxies()}" if _proxies() else ""
        return f"there is no connection to {endpoint()}{through} ({deepest}); check the network, or HF_ENDPOINT"
    if "Consistency check failed" in said:
        return f"{what} arrived cut off; try again"
    return f"{endpoint()} does not deliver {what} ({said}); try again later"


def _proxies() -> str:
    """Hosts of the proxies in use, without their passwords; empty: there are none."""
    found = urllib.request.getproxies()
    found.pop("no", None)  # NO_PROXY: the hosts that are reached without one
    hosts = {urlsplit(url if "//" in url else f"//{url}") for url in found.values()}
    return ", ".join(sorted({part.netloc.rpartition("@")[2] for part in hosts if part.netloc}))
