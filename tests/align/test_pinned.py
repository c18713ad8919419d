"""Depth maps of a camera that stays in its place agree with each other after pinning."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from easi3r_ns.align.align import AlignResult
from easi3r_ns.align.pinned import PinnedCameras, pin_cameras
from easi3r_ns.core.scene import CameraUncertainty
from easi3r_ns.training.scenes import Clip
from tests.support.still_clip import LARGE_MOVER, still_clip
from tests.support.zoom_clip import zoom_course

SCALES = np.exp(np.random.default_rng(1).uniform(-0.3, 0.3, 16))


def cameras_of(clip: Clip) -> PinnedCameras:
    count = len(clip)
    certain = CameraUncertainty(*(np.zeros(count) for _ in range(3)), np.full(count, np.nan))
    focals = np.full(count, clip.focal)
    return PinnedCameras(clip.T_world_cam[:, :3, :3], focals, clip.principal_point, 1.0, certain)


def drifting(clip: Clip, noise: float = 0.05) -> AlignResult:
    """What a network may find: a camera that drifts, every frame at a scale of its own, with noise."""
    rng, count = np.random.default_rng(0), len(clip)
    depth = clip.depth * SCALES[:, None, None] * np.exp(noise * rng.standard_normal(clip.depth.shape))
    depth[:, :5] = 0
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0, 3] = np.linspace(0, 1, count)
    diagnostics: Any = SimpleNamespace()
    return AlignResult(
        T_world_cam=T,
        focals=np.full(count, 1.1 * clip.focal),
        depth=depth.astype(np.float32),
        confidence=(depth > 0).astype(np.float32),
        contradicted=np.ones(depth.shape, bool),
        pair_scales=np.ones(1),
        loss_curve=np.ones(1),
        diagnostics=diagnostics,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "amount"), [pytest.param("fixed", LARGE_MOVER, 0.0, marks=pytest.mark.long), ("turn", 3, 20.0)]
)
def test_depths_get_one_scale_and_lose_their_noise(kind, seed, amount) -> None:
    clip = still_clip(kind, seed, amount)
    found = pin_cameras(drifting(clip), cameras_of(clip), clip.moving)
    relative = np.linalg.inv(clip.T_world_cam[0]) @ clip.T_world_cam
    np.testing.assert_allclose(found.T_world_cam, relative, atol=1e-9)
    np.testing.assert_array_equal(found.focals, clip.focal)
    known = found.depth > 0
    assert not known[:, :5].any() and known[:, 5:].all()
    error = np.log(found.depth[:, 5:] / clip.depth[:, 5:])
    static = ~clip.moving[:, 5:]
    per_frame = np.array([np.median(e[s]) for e, s in zip(error, static, strict=True)])
    assert np.ptp(per_frame) < 0.01
    # The median distance of normal noise is 0.67 deviations; the fused depths keep well below that of one frame.
    assert np.median(np.abs(error - np.median(per_frame))[static]) < 0.6 * 0.67 * 0.05
    # What moves keeps the depth of its own frame, at the common scale.
    moving = np.median((error - np.median(per_frame))[~static])
    assert abs(moving) < 0.02
    assert found.contradicted[clip.moving].all() and not found.contradicted[~clip.moving & known].any()


@pytest.mark.slow
def test_fixed_camera_has_one_depth_per_static_pixel() -> None:
    clip = still_clip("fixed", LARGE_MOVER)
    found = pin_cameras(drifting(clip), cameras_of(clip), clip.moving)
    always = ~clip.moving.any(axis=0)
    always[:5] = False
    spread = np.ptp(np.log(found.depth[:, always]), axis=0)
    assert np.median(spread) < 1e-5


@pytest.mark.long
def test_depths_agree_while_the_lens_zooms() -> None:
    clip = still_clip("fixed", LARGE_MOVER, zoom=1.5)
    cameras = replace(cameras_of(clip), focals=clip.focal * zoom_course(1.5, len(clip)))
    found = pin_cameras(drifting(clip), cameras, clip.moving)
    np.testing.assert_array_equal(found.focals, cameras.focals)
    error = np.log(found.depth[:, 5:] / clip.depth[:, 5:])
    static = ~clip.moving[:, 5:]
    per_frame = np.array([np.median(e[s]) for e, s in zip(error, static, strict=True)])
    assert np.ptp(per_frame) < 0.01
    assert np.median(np.abs(error - np.median(per_frame))[static]) < 0.6 * 0.67 * 0.05


@pytest.mark.long
def test_a_frame_without_static_depth_keeps_its_own() -> None:
    clip = still_clip("fixed")
    aligned, moving = drifting(clip), clip.moving.copy()
    moving[3] = True
    found = pin_cameras(aligned, cameras_of(clip), moving)
    ratio = found.depth[3, 5:] / aligned.depth[3, 5:]
    assert np.ptp(ratio) < 1e-6 and np.isfinite(found.depth).all()
