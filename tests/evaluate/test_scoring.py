"""A scene that was made from the truth scores perfectly; each flaw shows in its own number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import focal_from_source, image_centre_in_network
from easi3r_ns.core.scene import Scene, SparsePoints, rescale_scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.evaluate.datasets import Capture, TrueIntrinsics
from easi3r_ns.evaluate.scoring import score_scene, true_depth_on_network, typical_depth
from tests.evaluate.test_trajectory import walk

pytest.importorskip("evo", reason="pip install 'easi3r-ns[eval]' to test the scores of cameras")

PIXELS = PixelMap(source_wh=(64, 48), resized_wh=(32, 24), crop_box=(0, 4, 32, 20))
FRAMES = 6


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    """Six images with cameras, masks (a quarter moves) and depth (a slanted plane) at source size."""
    for name in ("images", "masks", "depth"):
        (tmp_path / name).mkdir()
    moving, depth = np.zeros((48, 64), np.uint8), np.broadcast_to(np.arange(64) * 20 + 1000, (48, 64)).astype(np.uint16)
    moving[:, :16] = 255
    stems = [f"{k:03d}" for k in range(FRAMES)]
    for stem in stems:
        Image.fromarray(moving).save(tmp_path / "masks" / f"{stem}.png")
        Image.fromarray(depth).save(tmp_path / "depth" / f"{stem}.png")
    return Capture(
        "walk",
        tmp_path / "images",
        T_world_cam=dict(zip(stems, walk(frames=FRAMES), strict=True)),
        intrinsics=TrueIntrinsics(64, 48, 60.0, 60.0),
        masks={stem: tmp_path / "masks" / f"{stem}.png" for stem in stems},
        depth={stem: tmp_path / "depth" / f"{stem}.png" for stem in stems},
    )


@pytest.fixture
def scene() -> Scene:
    """The truth itself, on the network grid: every second pixel, without the upper and lower eight rows."""
    masks = np.zeros((FRAMES, 16, 32), bool)
    masks[:, :, :8] = True
    # A network pixel's centre lies on the border of two source pixels: nearest takes the right one.
    depth = np.broadcast_to((np.arange(32) * 2 + 1) * 0.02 + 1, (FRAMES, 16, 32)).astype(np.float32)
    return Scene(
        images=np.zeros((FRAMES, 16, 32, 3), np.uint8),
        T_world_cam=walk(frames=FRAMES),
        focals=np.full(FRAMES, focal_from_source(60.0, PIXELS)),
        principal_point=image_centre_in_network(PIXELS),
        depth=depth,
        confidence=np.ones_like(depth),
        dynamic=DynamicMasks(masks, np.zeros((FRAMES, 1, 2), np.float32), 0.5),
        pixel_map=PIXELS,
        times=np.arange(float(FRAMES)),
        indices=np.arange(FRAMES),
        names=tuple(f"{k:03d}.jpg" for k in range(FRAMES)),
        source_paths=(Path("x"),) * FRAMES,
    )


def test_the_truth_scores_perfectly_in_any_unit(scene: Scene, capture: Capture) -> None:
    scores = score_scene(rescale_scene(scene, 3.0), capture)
    assert scores.problems == () and scores.num_frames == scores.num_posed == FRAMES
    assert scores.trajectory.ate == pytest.approx(0, abs=1e-9) and scores.trajectory.scale == pytest.approx(1 / 3)
    assert scores.focal_error == pytest.approx(0, abs=1e-12) and scores.drift is None
    assert scores.masks.network == (1.0,) * FRAMES
    # The crop cut a third of the rows off: what moves there is missed at source resolution.
    assert scores.masks.source == pytest.approx((2 / 3,) * FRAMES)
    assert scores.masks.true_coverage == scores.masks.predicted_coverage == 0.25
    assert scores.depth.by_scale.abs_rel < 1e-6 and scores.depth.by_scale.scale == pytest.approx(1 / 3)
    assert scores.depth.coverage == 1


def test_flaws_show(scene: Scene, capture: Capture) -> None:
    masks = scene.dynamic.masks.copy()
    masks[0] = False
    masks[1, :, :16] = True
    poses = scene.T_world_cam.copy()
    poses[2, 0, 3] += 0.1
    flawed = replace(
        scene,
        T_world_cam=poses,
        focals=scene.focals * 1.1,
        dynamic=replace(scene.dynamic, masks=masks),
        pose_sources=("colmap",) * 4 + ("aligned",) * 2,
    )
    scores = score_scene(flawed, capture)
    assert scores.masks.network == (0.0, 0.5, 1.0, 1.0, 1.0, 1.0)
    assert scores.focal_error == pytest.approx(0.1) and 0.01 < scores.trajectory.ate < 0.1
    assert scores.num_posed == 4 and scores.num_frames == 6


def test_frames_without_a_truth_are_left_out_of_that_score(scene: Scene, capture: Capture) -> None:
    partial = replace(
        capture,
        T_world_cam={k: v for k, v in capture.T_world_cam.items() if k != "003"},
        masks={"004": capture.masks["004"]},
        depth={},
    )
    scores = score_scene(scene, partial)
    assert scores.trajectory.num_frames == 5 and len(scores.masks.network) == 1 and scores.depth is None


def test_a_frame_that_was_lost_counts_as_an_empty_mask(scene: Scene, capture: Capture) -> None:
    kept = replace(
        scene,
        **{name: getattr(scene, name)[1:] for name in ("images", "T_world_cam", "focals", "depth", "confidence")},
        **{name: getattr(scene, name)[1:] for name in ("times", "indices", "names", "source_paths")},
        dynamic=DynamicMasks(scene.dynamic.masks[1:], scene.dynamic.score[1:], 0.5),
    )
    assert score_scene(kept, capture).masks.network == (1.0,) * (FRAMES - 1)
    scores = score_scene(kept, capture, requested=[f"{k:03d}" for k in range(FRAMES)])
    assert scores.masks.network == (0.0, *(1.0,) * (FRAMES - 1)) and scores.masks.predicted_coverage == 0.25
    assert scores.num_frames == FRAMES - 1 and scores.trajectory.num_frames == FRAMES - 1


def test_a_fixed_camera_is_measured_by_its_drift(scene: Scene, capture: Capture) -> None:
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[3, 0, 3] = 0.164
    static = scene.depth[~scene.dynamic.masks]
    for chosen in (
        replace(capture, T_world_cam={}, fixed_camera=True),
        replace(capture, T_world_cam={name: np.eye(4) for name in capture.T_world_cam}),
    ):
        scores = score_scene(replace(scene, T_world_cam=poses), chosen)
        assert scores.trajectory is None and scores.problems == ()
        assert scores.drift.relative_translation == pytest.approx(0.164 / np.median(static), rel=1e-6)


def test_a_degenerate_truth_is_a_problem_never_left_out(scene: Scene, capture: Capture) -> None:
    line = {name: np.eye(4) for name in capture.T_world_cam}
    for k, name in enumerate(line):
        line[name] = line[name].copy()
        line[name][0, 3] = k
    scores = score_scene(scene, replace(capture, T_world_cam=line))
    assert scores.trajectory is None and scores.masks is not None
    assert any("straight" in problem for problem in scores.problems)
    strangers = replace(capture, T_world_cam={"other": np.eye(4)})
    assert any("no frame" in problem for problem in score_scene(scene, strangers).problems)


def test_typical_depth_without_depth_maps_comes_from_the_points(scene: Scene) -> None:
    empty = replace(scene, depth=np.zeros_like(scene.depth), confidence=np.zeros_like(scene.depth))
    assert typical_depth(empty) is None
    z = np.array([1.0, 2.0, 5.0])
    camera = scene.T_world_cam[2]
    points = np.stack([0 * z, 0 * z, z], axis=1) @ camera[:3, :3].T + camera[:3, 3]
    sparse = SparsePoints(
        points, np.zeros((3, 3), np.uint8), np.zeros(3), np.arange(3), np.full(3, 2), np.zeros((3, 2))
    )
    assert typical_depth(replace(empty, sparse=sparse)) == pytest.approx(2.0)


@pytest.mark.parametrize("shape", [(48, 64), (24, 32), (12, 16), (15, 20), (96, 128)])
def test_true_depth_of_any_size_is_read_where_the_pixel_looks(scene: Scene, shape: tuple[int, int]) -> None:
    depth = np.random.RandomState(0).uniform(1, 5, shape)
    found = true_depth_on_network(depth, scene)
    for y in range(16):
        for x in range(32):
            # Centre of the network pixel as a share of the source's width and height: two source pixels each, and
            # the crop leaves eight rows out above.
            u, v = (2 * x + 1) / 64, (2 * (y + 4) + 1) / 48
            assert found[y, x] == depth[int(v * shape[0]), int(u * shape[1])]


def test_truth_of_another_size_is_refused(scene: Scene, capture: Capture) -> None:
    with pytest.raises(InputError, match="intrinsics for 60x48"):
        score_scene(scene, replace(capture, intrinsics=TrueIntrinsics(60, 48, 60.0, 60.0)))
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(capture.masks["002"])
    with pytest.raises(InputError, match="is 12x10, the frames are 64x48"):
        score_scene(scene, capture)
