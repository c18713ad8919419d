"""Focal lengths of single frames: derivatives, a twin, truth of rendered zooms, and no zoom where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.refine.individual import Adjusted, TrackedCameras, Tracks, adjust_focals, cameras_of, jacobians
from easi3r_ns.refine.model import Lens, SparseModel
from easi3r_ns.refine.zoom import measure_zoom, warn_about_zoom
from easi3r_ns.storage.files import write_png
from tests.support.align_scene import camera_path, trajectory_errors
from tests.support.helpers import align_sim3, shared_data
from tests.support.refine_clip import PIXEL_MAP, make_scene, seen_along
from tests.support.twins import adjust_focals_naive
from tests.support.zoom_clip import zoom_clip, zoom_course

pytest.importorskip("pycolmap")
from easi3r_ns.pipelines.run import RunConfig, process  # noqa: E402
from easi3r_ns.refine import check_refine, mapping  # noqa: E402
from easi3r_ns.refine.bundle import bundle_from  # noqa: E402
from easi3r_ns.refine.mapping import map_incrementally  # noqa: E402

CENTRE = np.array([320.0, 240.0])


def small_problem(
    noise: float = 0.2, ratio: float = 1.4, count: int = 6, points: int = 40
) -> tuple[TrackedCameras, Tracks]:
    """True cameras with a zoom and distortion, and what they see."""
    rng = np.random.default_rng(0)
    T = np.linalg.inv(camera_path(count, 1.5, rng))
    world = np.stack([rng.uniform(-2, 2, points), rng.uniform(-1.5, 1.5, points), rng.uniform(3, 7, points)], axis=1)
    focal = 500 * zoom_course(ratio, count)
    cameras = TrackedCameras(T[:, :3, :3], T[:, :3, 3], focal, np.array([-0.05, 0.01, 0.001, -0.002]), CENTRE, world)
    frame, point = (axis.ravel() for axis in np.meshgrid(np.arange(count), np.arange(points), indexing="ij"))
    pixels, _ = cameras.project(frame, world[point])
    return cameras, Tracks(frame, point, pixels + noise * rng.standard_normal(pixels.shape))


def disturbed(cameras: TrackedCameras, focal: float) -> TrackedCameras:
    rng = np.random.default_rng(1)
    turn = Rotation.from_rotvec(0.003 * rng.standard_normal((len(cameras.R), 3))).as_matrix()
    turn[0] = np.eye(3)
    return replace(
        cameras,
        R=turn @ cameras.R,
        focal=np.full(len(cameras.R), focal),
        distortion=np.zeros(4),
        points=cameras.points + 0.02 * rng.standard_normal(cameras.points.shape),
    )


def test_jacobians_are_the_derivatives() -> None:
    cameras, tracks = small_problem(count=3, points=8)
    of_camera, of_lens, of_point = jacobians(cameras, tracks, 4)
    step = 1e-6

    def change(moved: TrackedCameras) -> np.ndarray:
        shown = (c.project(tracks.frame, c.points[tracks.point])[0] for c in (moved, cameras))
        return (next(shown) - next(shown)) / step

    for axis in range(3):
        unit = step * np.eye(3)[axis]
        turned = replace(cameras, R=Rotation.from_rotvec(unit).as_matrix() @ cameras.R)
        np.testing.assert_allclose(change(turned), of_camera[..., axis], atol=1e-2, rtol=1e-4)
        np.testing.assert_allclose(change(replace(cameras, t=cameras.t + unit)), of_camera[..., 3 + axis], atol=1e-2)
        moved = replace(cameras, points=cameras.points + unit)
        np.testing.assert_allclose(change(moved), of_point[..., axis], atol=1e-2)
    np.testing.assert_allclose(
        change(replace(cameras, focal=cameras.focal * np.exp(step))), of_camera[..., 6], atol=1e-2
    )
    for k in range(4):
        lens = replace(cameras, distortion=cameras.distortion + step * np.eye(4)[k])
        np.testing.assert_allclose(change(lens), of_lens[..., k], atol=1e-2)


@pytest.mark.parametrize("shared", [False, True])
def test_adjustment_equals_its_twin(shared) -> None:
    truth, tracks = small_problem(ratio=1.0 if shared else 1.4, points=25, count=5)
    start = disturbed(truth, 520.0)
    fast = adjust_focals(start, tracks, 2, shared=shared)
    slow = adjust_focals_naive(start, tracks, 2, shared=shared)
    np.testing.assert_allclose(fast.cameras.focal, slow.cameras.focal, rtol=2e-4)
    np.testing.assert_allclose(fast.cameras.distortion, slow.cameras.distortion, atol=2e-3)
    sigma = [np.sqrt(np.diag(found.covariance)) for found in (fast, slow)]
    np.testing.assert_allclose(*sigma, rtol=0.02)


def test_focal_lengths_and_distortion_of_a_zoom_come_back() -> None:
    truth, tracks = small_problem(points=200)
    found = adjust_focals(disturbed(truth, 600.0), tracks, 4)
    sigma = np.sqrt(np.diag(found.covariance))
    assert (np.abs(np.log(found.cameras.focal / truth.focal)) < 4 * sigma).all() and sigma.max() < 0.02
    np.testing.assert_allclose(found.cameras.distortion, truth.distortion, atol=0.02)


def test_deviations_are_those_of_repeated_noise() -> None:
    truth, _ = small_problem(ratio=1.2, count=5, points=60)
    frame, point = (axis.ravel() for axis in np.meshgrid(np.arange(5), np.arange(60), indexing="ij"))
    clean, _ = truth.project(frame, truth.points[point])
    rng = np.random.default_rng(5)
    runs: list[Adjusted] = []
    for _ in range(24):
        tracks = Tracks(frame, point, clean + 0.3 * rng.standard_normal(clean.shape))
        runs.append(adjust_focals(truth, tracks, 2))
    logs = np.log([found.cameras.focal for found in runs])
    stated = np.sqrt(np.mean([np.diag(found.covariance) for found in runs], axis=0))
    # 24 draws know a deviation to 15 %, and robust weights cost a little.
    assert (np.abs(np.log(logs.std(axis=0) / stated)) < 0.5).all()


def zoom_tracks(ratio: float, seed: int = 0):
    """A hand-held walk with a zoom: what a matcher finds, and the truth."""
    rng = np.random.default_rng(seed)
    T = camera_path(10, 1.5, rng)
    points = np.stack([rng.uniform(-3, 3, 600), rng.uniform(-2, 2, 600), rng.uniform(3, 7, 600)], axis=1)
    focals = 480 * zoom_course(ratio, 10)
    return seen_along(T, points, Lens(640, 480, 480.0, (320.0, 240.0)), 0.3, 0.02, rng, focals), focals


@pytest.fixture(scope="module")
def shared_models() -> dict[float, SparseModel]:
    """Models that mapping with one focal length makes of a clip without and with a zoom."""
    found = {}
    for ratio in (1.0, 1.5):
        tracks, _ = zoom_tracks(ratio)
        lens = Lens.centred((640, 480), 768.0)
        found[ratio] = map_incrementally(tracks.found, lens, RefineConfig(), fixed_focal=False, seed=0)
    return found


@pytest.mark.slow
def test_a_zoom_is_told_from_none(shared_models) -> None:
    told = {ratio: RunLog() for ratio in shared_models}
    zooms = {ratio: warn_about_zoom(model, "radial", told[ratio]) for ratio, model in shared_models.items()}
    assert not zooms[1.0].found and not told[1.0].warnings
    assert zooms[1.0].change < 0.03
    assert [zooms[ratio].facts["not_modelled"] for ratio in (1.0, 1.5)] == [0.0, zooms[1.5].change]
    assert zooms[1.5].found and zooms[1.5].errors[1] < 0.5 * zooms[1.5].errors[0]
    assert zooms[1.5].change == pytest.approx(0.5, abs=0.1)
    assert "the lens zooms" in told[1.5].warnings[0] and "--align.no-shared-focal" in told[1.5].warnings[0]


def test_single_focal_lengths_without_a_zoom_agree_with_the_shared_one(shared_models) -> None:
    cameras, tracks = cameras_of(shared_models[1.0])
    one, each = (adjust_focals(cameras, tracks, 2, shared=shared) for shared in (True, False))
    away = np.abs(np.log(each.cameras.focal / one.cameras.focal))
    assert (away < 4 * np.sqrt(np.diag(each.covariance))).all() and away.max() < 0.02


def test_too_little_to_tell(shared_models) -> None:
    model = shared_models[1.5]
    few = model.restricted(np.arange(10) < 3)
    assert measure_zoom(few, "radial") is None
    assert warn_about_zoom(model.with_points(np.arange(len(model.sparse)) < 50), "radial", RunLog()) is None


@pytest.mark.parametrize("start", ["mapping", "bundle adjustment"])
def test_one_focal_length_per_frame_is_found(start) -> None:
    tracks, focals = zoom_tracks(1.5)
    lens, begin = Lens.centred((640, 480), 600.0), np.full(10, 600.0)
    if start == "mapping":
        model = map_incrementally(tracks.found, lens, RefineConfig(), fixed_focal=False, seed=0, focals=begin)
    else:
        model = bundle_from(
            *(tracks.found, tracks.T_world_cam, lens, RefineConfig()), fixed_focal=False, seed=0, focals=1.1 * focals
        )
    assert model.registered.all()
    np.testing.assert_allclose(model.focals, focals, rtol=0.02)
    assert model.lens.focal == np.median(model.focals) and np.abs(model.distortion).max() < 0.03
    assert trajectory_errors(model.T_world_cam, tracks.T_world_cam)["ate"] < 0.01


def test_a_known_focal_length_is_not_free_per_frame() -> None:
    with pytest.raises(InputError, match="--focal-length 500 .*--align.no-shared-focal"):
        check_refine(RefineConfig("colmap"), AlignConfig(shared_focal=False), 500.0)
    check_refine(RefineConfig("colmap"), AlignConfig(shared_focal=False))
    check_refine(RefineConfig("colmap"), AlignConfig(), 500.0)


def written(folder: Path, ratio: float) -> tuple[Path, np.ndarray, np.ndarray]:
    """A rendered clip as a folder of images, the true focal lengths and cameras."""
    clip, focals = zoom_clip(ratio)
    folder.mkdir()
    for k, image in enumerate(clip.images):
        write_png(folder / f"{k:03d}.png", image)
    return folder, focals, clip.T_world_cam


def run(data: Path, out: Path, log: RunLog, *, shared_focal: bool, weights: str = "none") -> dict:
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights=weights, depth="none", device="cpu", no_masks=True, graph="swinstride-2-noncyclic"),
        AlignConfig(shared_focal=shared_focal, max_pixels=512),
        DatasetConfig(num_downscales=0, report=False),
        RefineConfig("none" if weights == "none" else "colmap"),
    )
    return json.loads(process(data, out, config, overwrite=False, log=log).transforms_path.read_text())


@pytest.mark.long
def test_rendered_zoom_warns_and_every_frame_gets_its_focal_length(tmp_path) -> None:
    data, focals, T = written(tmp_path / "clip", 1.5)
    log = RunLog()
    run(data, tmp_path / "shared", log, shared_focal=True)
    assert any("the lens zooms" in text for text in log.warnings)
    log = RunLog()
    meta = run(data, tmp_path / "each", log, shared_focal=False)
    assert not any("zoom" in text for text in log.warnings) and "fl_x" not in meta
    found = np.array([frame["fl_x"] for frame in meta["frames"]])
    assert len(found) == len(focals) and found == pytest.approx([frame["fl_y"] for frame in meta["frames"]])
    np.testing.assert_allclose(found, focals, rtol=0.03)
    np.testing.assert_allclose(found / found[0], focals / focals[0], rtol=0.01)
    centres = np.array([frame["transform_matrix"] for frame in meta["frames"]])[:, :3, 3]
    path = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1).sum()
    assert align_sim3(centres, T[:, :3, 3]).rmse < 0.01 * path


@pytest.mark.long
def test_rendered_clip_without_a_zoom_does_not_warn(tmp_path) -> None:
    data, focals, _ = written(tmp_path / "clip", 1.0)
    log = RunLog()
    meta = run(data, tmp_path / "shared", log, shared_focal=True)
    assert not any("zoom" in text for text in log.warnings)
    assert meta["easi3r"]["zoom"]["not_modelled"] == 0
    assert meta["fl_x"] == pytest.approx(focals[0], rel=0.01)
    each = run(data, tmp_path / "each", log, shared_focal=False)
    np.testing.assert_allclose([frame["fl_x"] for frame in each["frames"]], meta["fl_x"], rtol=0.02)


@pytest.mark.long
def test_refinement_finds_the_zoom_too(tmp_path) -> None:
    data, focals, _ = written(tmp_path / "clip", 1.5)
    log = RunLog()
    meta = run(data, tmp_path / "shared", log, shared_focal=True, weights="tiny")
    assert any("the lens zooms" in text for text in log.warnings)
    assert meta["easi3r"]["refine"]["zoom"]["not_modelled"] == pytest.approx(0.5, abs=0.1)
    meta = run(data, tmp_path / "each", RunLog(), shared_focal=False, weights="tiny")
    assert meta["easi3r"]["refine"]["kept"] != "network"
    found = np.array([frame["fl_x"] for frame in meta["frames"]])
    np.testing.assert_allclose(found / found[0], focals / focals[0], rtol=0.02)


def test_mapping_starts_where_the_files_say_and_then_where_colmap_does(monkeypatch) -> None:
    tracks, _ = zoom_tracks(1.0)
    scene = make_scene(tracks.T_world_cam, 480, np.ones((10, 96, 128)))
    frames = Frames(scene.images, PIXEL_MAP, scene.times, scene.indices, scene.names, scene.source_paths, 10)
    begun, rivals_begin = [], []

    def no_model(found: object, lens: Lens, config: object, *, fixed_focal: bool, **options: object) -> None:
        begun.append((lens.focal, fixed_focal, options["focals"] is None))

    def no_rivals(found: object, everything: object, task: mapping.Task, **options: object) -> list:
        rivals_begin.append(task.lens.focal)
        return []

    monkeypatch.setattr(mapping, "detect_features", lambda *args: None)
    monkeypatch.setattr(mapping, "_rivals", no_rivals)
    monkeypatch.setattr(mapping, "find_correspondences", lambda *args, **options: tracks.found)
    monkeypatch.setattr(mapping, "map_incrementally", no_model)
    for options in ({"focal": None, "start": 500.0}, {"focal": 480.0}, {"focal": None, "shared_focal": False}):
        with pytest.raises(AlignmentError, match="plausible lens") as error:
            mapping.map_static(frames, scene.dynamic, RefineConfig(), RunLog(), seed=0, **options)
        assert ("--align.no-shared-focal" in str(error.value)) == options.get("shared_focal", True)
    assert begun == [(500.0, False, True), (768.0, False, True), (480.0, True, True), (768.0, False, False)]
    assert rivals_begin == [500.0, 480.0]


@pytest.mark.long
def test_no_zoom_in_a_real_walk(tmp_path) -> None:
    data = shared_data() / "hololens" / "images"
    select, log = FrameConfig(num_frames_target=24), RunLog()
    frames = load_frames(data, tmp_path, select=select, geometry=ImageGeometry(), log=log)
    still = static_masks(len(frames), *frames.images.shape[1:3], 16)
    model = mapping.map_static(frames, still, RefineConfig(), log, focal=None, seed=0)
    zoom = warn_about_zoom(model, "radial", log)
    assert zoom is not None and not zoom.found and not any("zoom" in text for text in log.warnings)
