"""Corrections by hand on the grid of the masks, and one object followed through a clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import ByHand, DynamicMasks, Frames, PixelMap
from easi3r_ns.evaluate.masks import jaccard
from easi3r_ns.motion.corrections import apply, corrected, corrected_frames
from easi3r_ns.motion.propagate import follow_region
from easi3r_ns.storage.corrections import AS_FOUND, MOVES, STILL, Corrections, write_corrections
from tests.motion.test_objects import film

COUNT = 5


def frames() -> Frames:
    """Network images of 24 x 16 pixels: sources of 96 x 72, of which 4 rows above and below are not seen."""
    pixel_map = PixelMap((96, 72), (24, 18), (0, 1, 24, 17))
    paths = tuple(Path(f"{k}.png") for k in range(COUNT))
    images = np.zeros((COUNT, 16, 24, 3), dtype=np.uint8)
    return Frames(images, pixel_map, np.arange(COUNT) / 10, np.arange(COUNT) * 3, ("a.mp4",) * COUNT, paths, 13)


def image(scale: float = 1) -> np.ndarray:
    """The picture's left third moves, its right third stands still."""
    marks = np.full((round(72 * scale), round(96 * scale)), AS_FOUND, dtype=np.uint8)
    third = marks.shape[1] // 3
    marks[:, :third], marks[:, -third:] = MOVES, STILL
    return marks


def write(folder: Path, **changes: object) -> Path:
    marks = {"frame_00002": image(), "frame_00004": image(0.5)}
    sources = {"frame_00002": ("a.mp4", 3, None), "frame_00004": ("a.mp4", 9, None)}
    write_corrections(folder, replace(Corrections((96, 72), marks, sources=sources), **changes))
    return folder


def test_by_hand_wins_over_what_was_found(tmp_path: Path) -> None:
    log = RunLog()
    placed = corrected_frames(write(tmp_path / "own"), frames(), log)
    assert placed.corrected == 2 and placed.kept.tolist() == list(range(COUNT)) and not log.warnings
    found = np.zeros((COUNT, 16, 24), dtype=bool)
    found[:, :, 12:] = True
    masks = apply(found, placed.frames.by_hand)
    for row in (1, 3):
        assert masks[row, :, :8].all() and not masks[row, :, 8:12].any()
        assert masks[row, :, 12:16].all() and not masks[row, :, 16:].any()
    np.testing.assert_array_equal(masks[[0, 2, 4]], found[[0, 2, 4]])
    kept = np.array([3, 4])
    np.testing.assert_array_equal(apply(found[kept], placed.frames.of_frames(kept).by_hand), masks[kept])
    longer = placed.frames.followed_by(frames())
    np.testing.assert_array_equal(apply(np.tile(found, (2, 1, 1)), longer.by_hand)[COUNT:], found)


def test_nothing_said_changes_nothing() -> None:
    dynamic = DynamicMasks(np.ones((COUNT, 16, 24), dtype=bool), np.zeros((COUNT, 2, 3), dtype=np.float32), 0.5)
    assert corrected(dynamic, None) is dynamic
    nothing = ByHand(np.zeros((1, 16, 24), dtype=np.int8), np.array([0, -1, -1, -1, -1]))
    assert corrected(dynamic, nothing) is dynamic
    assert corrected_frames(None, frames(), RunLog()).frames.by_hand is None
    with pytest.raises(ValueError, match="masks"):
        apply(dynamic.masks[:2], nothing)


def test_what_moves_by_hand_alone_counts_as_given(tmp_path: Path) -> None:
    placed = corrected_frames(write(tmp_path), frames(), RunLog())
    nothing = DynamicMasks(
        np.zeros((COUNT, 16, 24), dtype=bool), np.zeros((COUNT, 2, 3), dtype=np.float32), float("nan"), source="none"
    )
    masks = corrected(nothing, placed.frames.by_hand)
    assert masks.source == "user" and masks.masks[1].any()


def test_excluded_frames_go_and_the_others_keep_their_corrections(tmp_path: Path) -> None:
    sources = {"frame_00002": ("a.mp4", 3, None), "frame_00004": ("a.mp4", 9, None), "frame_00001": ("a.mp4", 0, None)}
    folder = write(tmp_path / "own", excluded=("frame_00001", "frame_00002"), sources=sources)
    placed = corrected_frames(folder, frames(), RunLog())
    assert placed.kept.tolist() == [2, 3, 4] and placed.frames.indices.tolist() == [6, 9, 12]
    masks = apply(np.zeros((3, 16, 24), dtype=bool), placed.frames.by_hand)
    assert masks.any(axis=(1, 2)).tolist() == [False, True, False]
    everything = {f"frame_{k + 1:05d}": ("a.mp4", 3 * k, None) for k in range(COUNT)}
    write(folder, excluded=tuple(everything)[:4], sources=everything)
    with pytest.raises(InputError, match="excludes all but 1 of 5 frames"):
        corrected_frames(folder, frames(), RunLog())


def test_frames_are_found_by_their_source_else_by_their_number(tmp_path: Path) -> None:
    moved = {"frame_00002": ("a.mp4", 12, None), "frame_00004": ("a.mp4", 100, None)}
    log = RunLog()
    placed = corrected_frames(write(tmp_path / "a", sources=moved), frames(), log)
    assert (placed.frames.by_hand.row >= 0).tolist() == [False, False, False, False, True]
    assert "1 of its 2 frames are not used" in log.warnings[0]
    placed = corrected_frames(write(tmp_path / "b", sources={}), frames(), RunLog())
    assert (placed.frames.by_hand.row >= 0).tolist() == [False, True, False, True, False]
    other = {"frame_00002": ("b.mp4", 3, None), "frame_00004": ("b.mp4", 9, None)}
    with pytest.raises(InputError, match="none of its 2 frames is used"):
        corrected_frames(write(tmp_path / "c", sources=other), frames(), RunLog())
    with pytest.raises(InputError, match="this run has no frame frame_00009, its last one is frame_00005"):
        corrected_frames(write(tmp_path / "d", marks={"frame_00009": image()}, sources={}), frames(), RunLog())
    with pytest.raises(InputError, match="--corrections .* a mask is 40x40, the frames are 96x72"):
        square = {"frame_00002": np.zeros((40, 40), dtype=np.uint8)}
        corrected_frames(write(tmp_path / "e", size=(80, 80), marks=square, sources={}), frames(), RunLog())


@pytest.mark.parametrize("start", [0, 9])
def test_a_square_is_followed_through_the_clip(start: int) -> None:
    images, truth = film([[(10 + 4 * f, 20, 28, 26) for f in range(16)], [(90 - 2 * f, 50, 20, 16) for f in range(16)]])
    steps: list[int] = []
    found = follow_region(images, truth[start] == 1, start, advance=steps.append)
    assert jaccard(found, truth == 1).min() > 0.85 and sum(steps) == 15
    np.testing.assert_array_equal(found[start], truth[start] == 1)


def test_it_ends_where_it_is_hidden_and_at_the_end_of_its_clip() -> None:
    images, truth = film([[(20 + 3 * f, 20, 24, 22) if f < 8 else None for f in range(12)]])
    found = follow_region(images, truth[2] > 0, 2)
    assert jaccard(found[:8], truth[:8] > 0).min() > 0.8 and not found[9:].any()
    assert not follow_region(images, truth[2] > 0, 2, rows=range(1, 5))[[0, 5, 6]].any()
    with pytest.raises(ValueError, match="0 pixels"):
        follow_region(images, truth[10] > 0, 10)
