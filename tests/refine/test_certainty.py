"""The stated uncertainty of a bundle adjustment against the errors that it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import RefineConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import CameraUncertainty
from easi3r_ns.core.similarity import align_cameras
from easi3r_ns.refine.bundle import bundle_from
from easi3r_ns.refine.certainty import LARGEST, model_uncertainty
from easi3r_ns.refine.kept import refine_kept
from easi3r_ns.refine.model import SparseModel
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import write_png
from tests.support.refine_clip import Tracks, disturbed, make_scene, make_tracks

TRIALS = 10


def adjusted(tracks: Tracks, model: str = "radial", fixed_focal: bool = False) -> SparseModel:
    found = bundle_from(
        tracks.found, tracks.T_world_cam, tracks.lens, RefineConfig(camera_model=model), fixed_focal=fixed_focal, seed=0
    )
    assert found is not None
    return found


def stated(model: SparseModel, kind: str = "radial", fixed_focal: bool = False) -> CameraUncertainty:
    found = model_uncertainty(model, kind, fixed_focal=fixed_focal)
    assert found is not None and len(found) == len(model.registered)
    return found


def shaken(tracks: Tracks, size: float, seed: int) -> Tracks:
    """Every frame is stretched by a random ``size``: an error that all its keypoints have in common."""
    rng = np.random.default_rng(seed)
    middle = np.array([320.0, 240.0])
    keypoints = tuple(middle + (xy - middle) * (1 + size * rng.standard_normal()) for xy in tracks.found.keypoints)
    return replace(tracks, found=replace(tracks.found, keypoints=keypoints))


def test_truth_lies_within_the_stated_uncertainty() -> None:
    focal, centre, rotation = [], [], []
    for seed in range(TRIALS):
        tracks = make_tracks(8, 250, noise=0.5, wrong=0.0, seed=seed)
        model = adjusted(tracks)
        sigma = stated(model)
        focal.append((model.focal - tracks.lens.focal) / sigma.focal[0])
        back = align_cameras(model.T_world_cam, tracks.T_world_cam).cameras(model.T_world_cam)
        scale = align_cameras(model.T_world_cam, tracks.T_world_cam).scale
        off = np.linalg.norm(back[:, :3, 3] - tracks.T_world_cam[:, :3, 3], axis=1)
        centre.append(off / (scale * sigma.centre))
        cosine = (np.einsum("nij,nij->n", back[:, :3, :3], tracks.T_world_cam[:, :3, :3]) - 1) / 2
        rotation.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))) / sigma.rotation_deg)
    for ratio in (focal, centre, rotation):
        assert 0.4 < np.sqrt(np.mean(np.square(ratio))) < 1.7


def test_errors_that_frames_have_in_common_are_seen() -> None:
    tracks = make_tracks(8, 250, noise=0.3, wrong=0.0)
    alone, common = (stated(adjusted(t)).focal[0] for t in (tracks, shaken(tracks, 0.006, 0)))
    assert common > 2 * alone


def test_little_travel_leaves_the_focal_length_open() -> None:
    near, far = (stated(adjusted(make_tracks(8, 250, travel=t, noise=0.5))).focal[0] for t in (0.25, 1.5))
    assert near > 1.5 * far


def test_given_focal_length_has_no_uncertainty_and_makes_the_rest_more_certain() -> None:
    tracks = make_tracks(8, 250, travel=0.4, noise=0.5)
    free, fixed = stated(adjusted(tracks)), stated(adjusted(tracks, fixed_focal=True), fixed_focal=True)
    assert not fixed.focal.any() and free.focal.all()
    assert np.median(fixed.centre) < np.median(free.centre)


def test_frames_without_camera_and_models_that_are_too_large() -> None:
    model = adjusted(make_tracks(8, 250))
    kept = np.arange(8) != 5
    some = stated(model.restricted(kept))
    assert np.isinf(some.rotation_deg[5]) and np.isinf(some.centre[5]) and np.isnan(some.residual[5])
    assert np.isfinite(some.rotation_deg[kept]).all() and (some.residual[kept] > 0).all()
    lone = replace(model, registered=np.zeros(8, dtype=bool))
    assert model_uncertainty(lone, "radial", fixed_focal=False) is None
    many = replace(model, T_world_cam=np.tile(np.eye(4), (LARGEST + 1, 1, 1)), registered=np.ones(LARGEST + 1, bool))
    assert model_uncertainty(many, "radial", fixed_focal=False) is None


def test_unit_of_length_scales_the_centres_only() -> None:
    model = adjusted(make_tracks(8, 250))
    one, ten = stated(model), stated(model.moved(10.0, np.eye(3), np.ones(3)))
    np.testing.assert_allclose(ten.centre, 10 * one.centre, rtol=1e-4)
    np.testing.assert_allclose(ten.rotation_deg, one.rotation_deg, rtol=1e-4)
    np.testing.assert_allclose(ten.focal, one.focal, rtol=1e-4)


def test_uncertainty_is_kept_with_the_refined_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = make_tracks(8, 250)
    paths = tuple(tmp_path / f"{k}.png" for k in range(8))
    for path in paths:
        write_png(path, np.zeros((480, 640, 3), np.uint8))
    scene = make_scene(disturbed(tracks.T_world_cam, 0.5, 0.05), 620.0, np.full((8, 96, 128), 4.0), paths)
    monkeypatch.setattr("easi3r_ns.refine.scene.find_correspondences", lambda *_, **__: tracks.found)
    cache = StageCache(tmp_path / "stages")
    first, again = (refine_kept(scene, RefineConfig(), RunLog(), 0, cache) for _ in range(2))
    assert first.uncertainty is not None and again.uncertainty is not None and again.uncertainty.focal[0] > 0
    for name in ("rotation_deg", "centre", "focal", "residual"):
        np.testing.assert_array_equal(getattr(first.uncertainty, name), getattr(again.uncertainty, name))
