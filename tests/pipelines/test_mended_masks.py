"""Masks that are wrong make cameras wrong; corrections by hand make them as good as those of the true masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.pipelines.again import accept, solve_again
from easi3r_ns.pipelines.run import RunConfig, process
from easi3r_ns.pipelines.side_by_side import compare_cameras
from easi3r_ns.storage.corrections import AS_FOUND, FOLDER, MOVES, Corrections, frame_sources, write_corrections
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.scenes import Clip
from tests.support import large_mover
from tests.support.helpers import align_sim3

NUM_FRAMES = 12
"""Of the clip of :mod:`tests.support.large_mover`, whose crate fills a third to half of the picture."""
SPOILED = range(1, NUM_FRAMES, 3)


def masks_but(clip: Clip, folder: Path, missing: range) -> Path:
    """The true masks, white where something moves; in frames that are ``missing`` nothing does."""
    folder.mkdir()
    for k, moving in enumerate(clip.moving):
        write_png(folder / f"{k:05d}.png", (moving & (k not in missing)).astype(np.uint8) * 255)
    return folder


def error(out: Path, clip: Clip) -> float:
    """ATE after Sim(3) in % of the length of the path; all frames have to have a camera."""
    scene = read_scene(out / "scene")
    assert scene.indices.tolist() == list(range(NUM_FRAMES))
    true = clip.T_world_cam[:, :3, 3]
    rmse = align_sim3(scene.T_world_cam[:, :3, 3], true).rmse
    return 100 * rmse / float(np.linalg.norm(np.diff(true, axis=0), axis=1).sum())


@pytest.mark.long
def test_a_mover_that_was_missed_in_a_third_of_the_frames_is_mended(tmp_path: Path) -> None:
    clip = large_mover.shoot(NUM_FRAMES)
    data, out = large_mover.write(clip, tmp_path), tmp_path / "out"

    def run(folder: Path, masks: Path) -> None:
        easi3r = Easi3RConfig(weights="none", depth="none", masks=masks, masks_polarity="white-moves")
        dataset = DatasetConfig(num_downscales=0, report=False)
        config = RunConfig(FrameConfig(num_frames_target=0), easi3r, dataset=dataset, keep_stages=True)
        process(data, folder, config, overwrite=False, log=RunLog())

    run(tmp_path / "true", masks_but(clip, tmp_path / "true_masks", range(0)))
    run(out, masks_but(clip, tmp_path / "spoiled_masks", SPOILED))
    best, spoiled = error(tmp_path / "true", clip), error(out, clip)
    assert spoiled > 1.5 * best, (best, spoiled)

    sources = frame_sources(out)
    names = {index: name for name, (_, index, _) in sources.items()}
    marks = {names[k]: np.where(clip.moving[k], MOVES, AS_FOUND).astype(np.uint8) for k in SPOILED}
    write_corrections(out / FOLDER, Corrections(clip.moving.shape[:0:-1], marks, sources=sources))
    again = solve_again(out)
    change = compare_cameras(out, again)
    assert change.moving_new > 1.2 * change.moving_old and change.distance.max() > 0.1
    mended = error(again, clip)
    assert mended < 1.05 * best + 0.01, (best, spoiled, mended)
    accept(out)
    assert error(out, clip) == mended
