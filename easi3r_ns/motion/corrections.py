"""Corrections by hand on the network grid: what a person says wins over every mask that is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import ByHand, DynamicMasks, Frames
from ..frames.user_masks import network_share
from ..storage.corrections import MOVES, STILL, Corrections, FrameSource, read_corrections

OPTION = "--corrections"
_HALF = 127
_FEWEST = 2
"""Frames that have to remain."""


@dataclass(frozen=True)
class CorrectedFrames:
    """Corrections of the frames of a run."""

    frames: Frames
    """Without those that are excluded, with what is said of the others."""
    kept: np.ndarray
    """(F,) positions among the frames before."""
    corrected: int
    """Number of frames whose masks are corrected."""


def corrected_frames(folder: Path | None, frames: Frames, log: RunLog) -> CorrectedFrames:
    """The frames of a run with the corrections in ``folder``; without it as they are.

    Frames are found by their source and their index in it; where neither the corrections nor a dataset beside them tell
    these, ``frame_00001`` is the first frame of the run.

    Raises:
        InputError: the corrections cannot be read, are of frames of another shape, or of other frames altogether.
    """
    if folder is None:
        return CorrectedFrames(frames, np.arange(len(frames)), 0)
    corrections = read_corrections(folder)
    rows = _rows(corrections, frames, folder)
    unused = [name for name in corrections.names if name not in rows]
    if unused and not rows:
        raise InputError(f"{OPTION} {folder}: none of its {len(unused)} frames is used in this run ({unused[0]})")
    if unused:
        log.warn(f"{OPTION} {folder}: {len(unused)} of its {len(corrections.names)} frames are not used in this run")
    marked = {rows[name]: name for name in corrections.marks if name in rows}
    row = np.full(len(frames), -1, dtype=np.int64)
    row[list(marked)] = np.arange(len(marked))
    marks = [_on_network(corrections.marks[name], frames, folder) for name in marked.values()]
    shape = frames.images.shape[1:3]
    by_hand = ByHand(np.stack(marks) if marks else np.zeros((0, *shape), dtype=np.int8), row)
    kept = np.setdiff1d(np.arange(len(frames)), [rows[name] for name in corrections.excluded if name in rows])
    if len(kept) < _FEWEST:
        raise InputError(f"{OPTION} {folder} excludes all but {len(kept)} of {len(frames)} frames: take some back")
    told = f"corrections of {len(marked)} {'frame' if len(marked) == 1 else 'frames'}"
    left = len(frames) - len(kept)
    log.info(told + (f"; {left} {'frame is' if left == 1 else 'frames are'} excluded by hand" if left else ""))
    frames = replace(frames, by_hand=by_hand)
    return CorrectedFrames(frames if not left else frames.of_frames(kept), kept, len(marked))


def apply(masks: np.ndarray, by_hand: ByHand | None) -> np.ndarray:
    """(F, H, W) bool masks with what a person says: ``(masks | moves) & ~still``.

    Raises:
        ValueError: they are of other frames, or of another size.
    """
    if by_hand is None or not (by_hand.row >= 0).any():
        return masks
    if masks.shape != (len(by_hand.row), *by_hand.marks.shape[1:]):
        raise ValueError(f"masks {masks.shape} for {len(by_hand.row)} frames of {by_hand.marks.shape[1:]} pixels")
    rows = np.flatnonzero(by_hand.row >= 0)
    marks, out = by_hand.marks[by_hand.row[rows]], masks.copy()
    out[rows] = (masks[rows] | (marks > 0)) & ~(marks < 0)
    return out


def corrected(dynamic: DynamicMasks, by_hand: ByHand | None) -> DynamicMasks:
    """The masks with what a person says; objects have to be told apart anew where this changes anything.

    Where nothing was to move at all (``--no-masks``), they are the user's own then.
    """
    masks = apply(dynamic.masks, by_hand)
    if masks is dynamic.masks or (masks == dynamic.masks).all():
        return dynamic
    return replace(dynamic, masks=masks, objects=None, source="user" if dynamic.source == "none" else dynamic.source)


def _rows(corrections: Corrections, frames: Frames, folder: Path) -> dict[str, int]:
    """Name -> row of the frames that are used."""
    places: dict[FrameSource, int] = {}
    for row, (name, index) in enumerate(zip(frames.names, frames.indices.tolist(), strict=True)):
        source = (name, index, None if frames.rig is None else int(frames.rig.view[row]) + 1)
        places[source] = -1 if source in places else row
    stems = {f"frame_{row + 1:05d}" if frames.rig is None else frames.rig.stem(row): row for row in range(len(frames))}
    rows = {}
    for name in corrections.names:
        known = corrections.sources.get(name)
        place = stems.get(name) if known is None else places.get(known)
        if place == -1:
            raise InputError(f"{OPTION} {folder}: {name} may be several frames of this run, of sources of one name")
        if place is None and known is None:
            raise InputError(f"{OPTION} {folder}: this run has no frame {name}, its last one is {list(stems)[-1]}")
        if place is not None:
            rows[name] = place
    return rows


def _on_network(marks: np.ndarray, frames: Frames, folder: Path) -> np.ndarray:
    """(h, w) grey levels -> (H, W) int8: a network pixel is corrected when half of what it covers is."""
    moves, still = (network_share(marks == level, frames.pixel_map, folder, OPTION) > _HALF for level in (MOVES, STILL))
    return moves.astype(np.int8) - still.astype(np.int8)
