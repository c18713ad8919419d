"""Extracted frames on disk: lossless PNG files and a manifest that says what they came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.types import SourceCut
from ..storage.copies import MANIFEST, remove_copies
from ..storage.files import write_json

_FORMAT = 5


@dataclass(frozen=True)
class StoredFrame:
    """One extracted frame."""

    file: str
    bytes: int
    index: int
    time: float
    name: str
    used: bool
    """False: not selected; its camera is estimated after the reconstruction (``--pose-all-frames``)."""


@dataclass(frozen=True)
class StoredNear:
    """A small copy of a source frame near one that is used."""

    file: str
    bytes: int
    index: int


@dataclass(frozen=True)
class StoredClip:
    """What the store holds."""

    frames: tuple[StoredFrame, ...]
    near: tuple[StoredNear, ...]
    num_source_frames: int
    warnings: tuple[str, ...]
    """Logged when the frames were extracted, and again when they are reused."""
    cut: SourceCut | None = None
    """What was cut off the frames."""
    sharpness: tuple[tuple[float, float], ...] = ()
    """Time and value, see :class:`~easi3r_ns.core.types.Sharpness`; empty: the frames were not compared."""


def frame_file(position: int, suffix: str = ".png") -> str:
    """File name of the ``position``-th stored frame (from 0)."""
    return f"frame_{position + 1:05d}{suffix}"


def near_file(position: int) -> str:
    """File name of the ``position``-th small copy (from 0)."""
    return f"near_{position + 1:05d}.png"


def load(store: Path, key: dict[str, Any]) -> StoredClip | None:
    """The clip that was stored under ``key``, or None when there is none or a file of it is missing or changed."""
    try:
        manifest = json.loads((store / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT or manifest["key"] != key:
            return None
        frames = tuple(StoredFrame(**frame) for frame in manifest["frames"])
        near = tuple(StoredNear(**picture) for picture in manifest["near"])
        sizes = {stored.file: stored.bytes for stored in frames} | {stored.file: stored.bytes for stored in near}
        if any((store / file).stat().st_size != size for file, size in sizes.items()):
            return None
        sharpness = tuple((float(time), float(value)) for time, value in manifest["sharpness"])
        cut = manifest["cut"] and SourceCut(**{name: tuple(sides) for name, sides in manifest["cut"].items()})
        count, warnings = int(manifest["num_source_frames"]), tuple(manifest["warnings"])
        return StoredClip(frames, near, count, warnings, cut, sharpness)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(store: Path, key: dict[str, Any], clip: StoredClip) -> None:
    """Write the manifest; call it after all frames are complete. Raises OutputError."""
    write_json(store / MANIFEST, {"format": _FORMAT, "key": key, **asdict(clip)})


def clear(store: Path) -> None:
    """Remove the manifest (first) and the frames that it names; other files stay."""
    try:
        manifest = json.loads((store / MANIFEST).read_text(encoding="utf-8"))
        files = [str(stored["file"]) for stored in (*manifest["frames"], *manifest.get("near", ()))]
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    (store / MANIFEST).unlink(missing_ok=True)
    for file in files:
        if Path(file).name == file and file.startswith(("frame_", "near_")):
            remove_copies(store / file)
            (store / file).unlink(missing_ok=True)
