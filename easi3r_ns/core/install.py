"""How to install what is missing, in a command that works for the way in which this package was installed."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

NAME = "easi3r-ns"


def install_extra(extra: str) -> str:
    """The command that adds an extra: from the same checkout, repository or index as the package itself."""
    editable = bool((_origin().get("dir_info") or {}).get("editable"))
    return f"pip install {'-e ' if editable else ''}{shlex.quote(_requirement(extra))}"


def _requirement(extra: str) -> str:
    origin = _origin()
    url = str(origin.get("url") or "")
    if url.startswith("file:"):
        # The folder itself, or a wheel, of which pip takes extras in the same way.
        return f"{url2pathname(unquote(urlparse(url).path))}[{extra}]"
    if "vcs_info" in origin:
        return f"{NAME}[{extra}] @ {origin['vcs_info'].get('vcs', 'git')}+{url}"
    if url:
        return f"{NAME}[{extra}] @ {url}"
    return f"{NAME}[{extra}]"


def _origin() -> dict[str, Any]:
    """What pip recorded about where the package came from (PEP 610); empty: an index, or nothing."""
    try:
        text = distribution(NAME).read_text("direct_url.json")
        found = json.loads(text) if text else {}
    except (PackageNotFoundError, ValueError, OSError):
        return {}
    return found if isinstance(found, dict) else {}
