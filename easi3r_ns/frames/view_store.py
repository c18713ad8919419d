"""Views that an interrupted run has cut already, so that the next one need not cut them again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..storage.files import jsonable, write_json

MANIFEST = "views.json"


def made_of(views: Any, frames: Iterable[Path]) -> dict[str, Any]:
    """What decides the views, as JSON: their geometry, and the files of the frames, which are new after every cut.

    Args:
        views: values that numpy or JSON know.
        frames: files that the views are cut out of.
    """
    stats = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in frames]
    return json.loads(json.dumps(jsonable({"views": views, "frames": stats})))


def are_there(store: Path, key: dict[str, Any]) -> bool:
    """Whether ``store`` holds the complete views that were kept under ``key``, as they were written."""
    try:
        manifest = json.loads((store / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        return manifest["key"] == key and all((store / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def keep(store: Path, key: dict[str, Any], files: Sequence[Path]) -> None:
    """Note that ``files``, in ``store``, are complete. Raises OutputError."""
    write_json(store / MANIFEST, {"key": key, "files": {path.name: path.stat().st_size for path in files}})


def forget(store: Path) -> None:
    """Before views are written over. Raises OSError."""
    (store / MANIFEST).unlink(missing_ok=True)
