"""Mapping of frames that were taken with two cameras: each gets its own lens, and all cameras lie in one world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.core.config import RefineConfig
from easi3r_ns.core.geometry import distort
from easi3r_ns.pipelines.packing import pack_model, unpack_model
from easi3r_ns.refine.elect import Mapped
from easi3r_ns.refine.mapping import map_incrementally
from easi3r_ns.refine.matching import EXHAUSTIVE_FRAMES, LOOKALIKES, NEIGHBOURS, choose_pairs
from easi3r_ns.refine.model import Lens, Lenses, SparseModel
from easi3r_ns.refine.score import agreement, score_cameras
from tests.support.helpers import align_sim3
from tests.support.refine_clip import Tracks, make_tracks

SMALL = Lens(320, 200, 310.0, (160.0, 100.0), (-0.08, 0.0, 0.0, 0.0))
INDEX = np.array([0] * 6 + [1] * 6)


@pytest.fixture(scope="module")
def two() -> tuple[Tracks, Lenses]:
    """Tracks whose second half another camera saw; pixels of the first stay."""
    tracks = make_tracks(12, wrong=0.0)
    truth = Lenses((tracks.lens, SMALL), INDEX)

    def seen(xy: np.ndarray) -> np.ndarray:
        ideal = (xy - tracks.lens.principal_point) / tracks.lens.focal
        return distort(ideal, SMALL.distortion) * SMALL.focal + SMALL.principal_point

    keypoints = tuple(xy if k < 6 else seen(xy) for k, xy in enumerate(tracks.found.keypoints))
    return replace(tracks, found=replace(tracks.found, keypoints=keypoints)), truth


@pytest.fixture(scope="module")
def mapped(two: tuple[Tracks, Lenses]) -> SparseModel:
    start = Lenses((Lens.centred((640, 480), 700), Lens.centred((320, 200), 384)), INDEX)
    model = map_incrementally(two[0].found, start, RefineConfig(), fixed_focal=False, seed=0)
    assert model is not None
    return model


def test_every_camera_gets_its_lens(two, mapped) -> None:
    (tracks, truth), lenses = two, mapped.lenses
    assert mapped.registered.all() and lenses is not None
    for found, true in zip(lenses.lenses, truth.lenses, strict=True):
        assert (found.width, found.height) == (true.width, true.height)
        assert found.focal == pytest.approx(true.focal, rel=0.01)
        assert found.distortion[0] == pytest.approx(true.distortion[0], abs=0.02)
    path = np.linalg.norm(np.diff(tracks.T_world_cam[:, :3, 3], axis=0), axis=1).sum()
    assert align_sim3(mapped.T_world_cam[:, :3, 3], tracks.T_world_cam[:, :3, 3]).rmse < 0.005 * path


def test_errors_are_measured_through_the_own_lens(two, mapped) -> None:
    tracks, truth = two
    everywhere = np.ones(12, dtype=bool)
    error = np.linalg.norm(mapped.reprojected()[0] - mapped.sparse.pixels, axis=1)
    assert np.median(error) < 0.6
    assert (agreement(tracks.T_world_cam, truth, tracks.found, everywhere, 4.0) > 0.95).all()
    one = Lenses((tracks.lens, tracks.lens), INDEX)
    assert (agreement(tracks.T_world_cam, one, tracks.found, everywhere, 4.0)[6:] < 0.9).all()
    right, wrong = (score_cameras(tracks.T_world_cam, lens, tracks.found, everywhere) for lens in (truth, one))
    assert right.track_length > 2 * wrong.track_length


def test_the_model_is_kept_with_its_lenses(mapped) -> None:
    again = unpack_model(pack_model(mapped))
    assert again.lenses is not None and again.lenses.lenses == mapped.lenses.lenses and again.lens == mapped.lens
    assert (again.lenses.index == INDEX).all() and np.array_equal(again.frame_focals, mapped.frame_focals)


def test_one_degenerate_lens_counts_only_while_its_frames_are_there(mapped) -> None:
    assert not Mapped("m", mapped).degenerate
    odd = replace(mapped, lenses=replace(mapped.lenses, lenses=(mapped.lenses.lenses[0], replace(SMALL, focal=2000.0))))
    assert Mapped("m", odd).degenerate
    assert not Mapped("m", odd.restricted(INDEX == 0)).degenerate


def test_long_clips_are_matched_with_one_another() -> None:
    count = EXHAUSTIVE_FRAMES // 2 + 10
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 255, (2 * count, 60, 128), dtype=np.uint8)
    clip = np.repeat([0, 1], count)
    pairs = choose_pairs(tuple(looks), 0, clip)
    across = clip[pairs[:, 0]] != clip[pairs[:, 1]]
    assert set(np.unique(pairs[across])) == set(range(2 * count))
    assert across.sum() <= 4 * count * LOOKALIKES
    last = pairs[pairs[:, 0] == count - 1]
    assert (last[:, 1] >= count).sum() < NEIGHBOURS  # the next clip's first frames are no neighbours in time
