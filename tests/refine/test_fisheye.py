"""A fisheye lens: its projection against OpenCV's, bundle adjustment on exact tracks, and a rendered clip."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from easi3r_ns.core.config import AlignConfig, DatasetConfig, ExportConfig, RefineConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import FisheyeDistortion, distort, is_distorted, pixel_grid, undistort
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, Frames, PixelMap
from easi3r_ns.dataset.nerfstudio import check_loads, write_dataset
from easi3r_ns.dataset.scene_folder import read_scene, write_scene
from easi3r_ns.depth.pinhole import pinhole_grid
from easi3r_ns.export.formats import export_scene
from easi3r_ns.importers.colmap_model import read_model
from easi3r_ns.importers.folder import read_recording
from easi3r_ns.importers.recording import ImportOptions, to_scene
from easi3r_ns.pipelines.common_lens import CommonLens
from easi3r_ns.pipelines.footage import prepare
from easi3r_ns.refine.bundle import bundle_from
from easi3r_ns.refine.certainty import model_uncertainty
from easi3r_ns.refine.features import default_focal
from easi3r_ns.refine.individual import Tracks, cameras_of, jacobians
from easi3r_ns.refine.library import check_lens
from easi3r_ns.refine.mapping import map_static
from easi3r_ns.refine.model import FISHEYE, Lens
from easi3r_ns.report.measures import measure
from easi3r_ns.training.scenes import Clip, ClipOptions, film, handheld_path, make_scene
from tests.support.align_scene import camera_path
from tests.support.helpers import align_sim3
from tests.support.refine_clip import disturbed, seen_along

TRUE = FisheyeDistortion((0.03, -0.012, 0.004, -0.001))
CONFIG = RefineConfig(camera_model="opencv-fisheye")


def test_projection_is_that_of_opencv() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-3, 3, (200, 2)), np.ones((200, 1))], axis=1)
    expected, _ = cv2.fisheye.projectPoints(points[None], np.zeros(3), np.zeros(3), np.eye(3), np.array(TRUE))
    shown = distort(points[:, :2], TRUE)
    np.testing.assert_allclose(shown, expected[0], atol=1e-12)
    np.testing.assert_allclose(undistort(shown, TRUE), points[:, :2], rtol=1e-6, atol=1e-9)


def test_middle_of_the_picture_and_beyond_its_edge_stay_finite() -> None:
    middle = np.zeros((1, 2))
    np.testing.assert_array_equal(distort(middle, TRUE), middle)
    np.testing.assert_array_equal(undistort(middle, TRUE), middle)
    assert np.isfinite(undistort(np.array([[0.0, 5.0], [30.0, -30.0]]), TRUE)).all()
    assert is_distorted(FisheyeDistortion((0.0,) * 4)) and not is_distorted((0.0,) * 4)


def fisheye_tracks(focal: float = 300.0, noise: float = 0.3, seed: int = 0):  # noqa: ANN201
    """Points all around, seen by a lens of 640x480 pixels and about 125 degrees."""
    rng = np.random.default_rng(seed)
    T = camera_path(8, 1.5, rng)
    points = np.stack([rng.uniform(-7, 7, 900), rng.uniform(-5, 5, 900), rng.uniform(2, 7, 900)], axis=1)
    return seen_along(T, points, Lens(640, 480, focal, (320.0, 240.0), TRUE), noise, 0.02, rng)


def test_slopes_are_those_of_the_projection() -> None:
    tracks = fisheye_tracks()
    model = bundle_from(
        tracks.found, tracks.T_world_cam, replace(tracks.lens, distortion=FisheyeDistortion((0.0,) * 4)), CONFIG,
        fixed_focal=False, seed=0,
    )  # fmt: skip
    assert model is not None
    cameras, all_tracks = cameras_of(model)
    few = Tracks(all_tracks.frame[:40], all_tracks.point[:40], all_tracks.pixels[:40])
    _, of_lens, of_point = jacobians(cameras, few, 4)
    step, points = 1e-6, cameras.points[few.point]
    before = cameras.project(few.frame, points)[0]
    for column in range(4):
        moved = replace(cameras, distortion=cameras.distortion + step * np.eye(4)[column])
        change = (moved.project(few.frame, points)[0] - before) / step
        np.testing.assert_allclose(of_lens[..., column], change, rtol=1e-3, atol=1e-3)
    for axis in range(3):
        change = (cameras.project(few.frame, points + step * np.eye(3)[axis])[0] - before) / step
        np.testing.assert_allclose(of_point[..., axis], change, rtol=1e-3, atol=1e-2)


def test_bundle_adjustment_finds_a_fisheye_lens() -> None:
    tracks = fisheye_tracks()
    start = Lens.centred((640, 480), 330.0).of_kind(FISHEYE)
    model = bundle_from(
        tracks.found, disturbed(tracks.T_world_cam, 0.3, 0.02), start, CONFIG, fixed_focal=False, seed=0
    )
    assert model is not None and model.lens.fisheye and isinstance(model.distortion, FisheyeDistortion)
    assert model.focal == pytest.approx(300, rel=0.005)
    rays = np.linspace(0, 1.5, 20)[:, None] * [0.8, 0.6]
    np.testing.assert_allclose(distort(rays, model.distortion), distort(rays, TRUE), atol=0.006)
    sigma = model_uncertainty(model, FISHEYE, fixed_focal=False)
    assert sigma is not None and abs(model.focal - 300) < 4 * sigma.focal[0] < 12


def test_first_guess_is_the_nominal_focal_length_of_action_cameras() -> None:
    assert default_focal((4000, 3000), FISHEYE) == pytest.approx(5000 * 24 / np.hypot(36, 24))
    assert default_focal((4000, 3000)) == 4800


def test_fisheye_that_zooms_is_refused() -> None:
    with pytest.raises(InputError, match="--camera-model opencv-fisheye has one focal length"):
        check_lens(CONFIG, AlignConfig(shared_focal=False))
    check_lens(CONFIG, AlignConfig())


@cache
def pinhole_clip(count: int = 3, size: int = 1) -> Clip:
    """Frames of a room by a pinhole of 129 degrees, which hold all that the fisheye sees; ``size`` 2: twice as fine."""
    times = np.arange(count) / 6
    room = make_scene(5)
    path = handheld_path(room, np.arange(8) / 6, np.random.RandomState(5))[:count]
    return film(room, room.mover_ids, path, 115.0 * size, (360 * size, 480 * size), times, ClipOptions(noise=1.0))


FOCAL, WIDTH, HEIGHT = 260.0, 480, 360


def fisheye_clip(folder: Path, clip: Clip, camera: str = "fisheye") -> tuple[Frames, DynamicMasks, np.ndarray]:
    """Frames, true masks and depth of the clip through a fisheye lens, or through a pinhole of its focal length."""
    height, width = clip.depth.shape[1:]
    ideal = (pixel_grid(HEIGHT, WIDTH) + 0.5 - [WIDTH / 2, HEIGHT / 2]) / FOCAL
    ideal = undistort(ideal, TRUE) if camera == "fisheye" else ideal
    x, y = np.moveaxis(ideal * clip.focal + np.array([width, height]) / 2 - 0.5, -1, 0).astype(np.float32)
    assert x.min() > 0 and y.min() > 0 and x.max() < width - 1 and y.max() < height - 1, (
        "the pinhole holds the whole picture"
    )
    images = np.stack([cv2.remap(image, x, y, cv2.INTER_CUBIC) for image in clip.images])
    moving = np.stack([cv2.remap(m.astype(np.uint8), x, y, cv2.INTER_NEAREST) > 0 for m in clip.moving])
    depth = np.stack([cv2.remap(d, x, y, cv2.INTER_NEAREST) for d in clip.depth])
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{k:05d}.png" for k in range(len(images)))
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    pixel_map = PixelMap((WIDTH, HEIGHT), (WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT))
    count = len(images)
    frames = Frames(images, pixel_map, clip.times, np.arange(count), ("c",) * count, paths, count)
    return frames, DynamicMasks(moving, np.zeros((count, 4, 4), np.float32), 0.5), depth


def true_scene(folder: Path) -> Scene:
    frames, dynamic, depth = fisheye_clip(folder, pinhole_clip())
    return Scene(
        images=frames.images,
        T_world_cam=pinhole_clip().T_world_cam,
        focals=np.full(len(frames), FOCAL),
        principal_point=np.array([WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5]),
        depth=depth.astype(np.float32),
        confidence=np.full(depth.shape, 3.0, np.float32),
        dynamic=dynamic,
        pixel_map=frames.pixel_map,
        times=frames.times,
        indices=frames.indices,
        names=frames.names,
        source_paths=frames.source_paths,
        distortion=TRUE,
    )


def path_error(T: np.ndarray, clip: Clip) -> float:
    """Of the length of the true path."""
    truth = clip.T_world_cam[:, :3, 3]
    return float(align_sim3(T[:, :3, 3], truth).rmse / np.linalg.norm(np.diff(truth, axis=0), axis=1).sum())


@pytest.mark.long
def test_rendered_fisheye_clip(tmp_path: Path) -> None:
    clip = pinhole_clip(8, 2)
    frames, dynamic, _ = fisheye_clip(tmp_path / "fisheye", clip)
    model = map_static(frames, dynamic, CONFIG, RunLog(), focal=None, seed=0)
    assert model.registered.all() and model.lens.fisheye
    assert model.focal == pytest.approx(FOCAL, rel=0.02)
    frames, dynamic, _ = fisheye_clip(tmp_path / "pinhole", clip, "pinhole")
    twin = map_static(frames, dynamic, RefineConfig(camera_model="pinhole"), RunLog(), focal=None, seed=0)
    assert path_error(model.T_world_cam, clip) < max(2 * path_error(twin.T_world_cam, clip), 0.002)


@pytest.mark.slow
def test_dataset_and_exports_of_a_fisheye_clip(tmp_path: Path) -> None:
    scene = true_scene(tmp_path / "store")
    assert read_scene(write_scene(scene, tmp_path / "scene")).distortion == TRUE
    assert isinstance(read_scene(tmp_path / "scene").distortion, FisheyeDistortion)
    out = tmp_path / "out"
    write_dataset(
        scene, out, DatasetConfig(num_downscales=1), RunLog(), verify=lambda file: check_loads(file, RunLog())
    )
    meta = json.loads((out / "transforms.json").read_text(encoding="utf-8"))
    assert meta["camera_model"] == "OPENCV_FISHEYE" and [meta[f"k{n}"] for n in (1, 2, 3, 4)] == list(TRUE)
    assert "p1" not in meta

    from nerfstudio.cameras.cameras import CameraType
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=out, downscale_factor=1, auto_scale_poses=False, center_method="none")
    parsed = replace(parser, orientation_method="none").setup().get_dataparser_outputs("train")
    assert (parsed.cameras.camera_type == CameraType.FISHEYE.value).all()
    # The rays of nerfstudio's camera meet the true depth at the points of the scene.
    rays = parsed.cameras.generate_rays(camera_indices=0, keep_shape=True)
    to_scene = parsed.dataparser_transform.numpy()
    ideal = undistort((pixel_grid(HEIGHT, WIDTH) - scene.principal_point) / FOCAL, TRUE)
    local = np.concatenate([ideal, np.ones_like(ideal[..., :1])], axis=-1)
    ours = local @ scene.T_world_cam[0, :3, :3].T
    ours /= np.linalg.norm(ours, axis=-1, keepdims=True)
    theirs = rays.directions.numpy() @ np.linalg.inv(to_scene[:, :3]).T
    assert np.abs(theirs - ours).max() < 1e-3

    export_scene(scene, tmp_path / "colmap", ["colmap"], ExportConfig(), RunLog())
    camera = pycolmap.Reconstruction(next((tmp_path / "colmap").rglob("cameras.bin")).parent).camera(1)
    assert camera.model_name == "OPENCV_FISHEYE"
    xy = np.array([[1.3, -0.4], [0.0, 0.2]])
    shown = [camera.img_from_cam(np.append(ray, 1.0)) for ray in xy]
    np.testing.assert_allclose(shown, distort(xy, TRUE) * FOCAL + [WIDTH / 2, HEIGHT / 2], atol=1e-3)


def imported(folder: Path, store: Path) -> Scene:
    recording = read_recording(folder)
    return to_scene(*prepare(recording, folder, store, RunLog()), folder, ImportOptions())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "ngp", "colmap"])
def test_what_we_write_is_read_again(tmp_path: Path, kind: str) -> None:
    """By the importers, which other programs' folders go through."""
    scene = true_scene(tmp_path / "store")
    if kind == "dataset":
        file = write_dataset(scene, tmp_path / "theirs", DatasetConfig(num_downscales=0), RunLog())
        meta = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({key: value for key, value in meta.items() if key != "easi3r"}), encoding="utf-8")
    else:
        export_scene(scene, tmp_path / "theirs", [kind], ExportConfig(), RunLog())
    folder = tmp_path / "theirs" / (kind if kind != "dataset" else "")
    got = imported(folder, tmp_path / "pictures")
    assert isinstance(got.distortion, FisheyeDistortion)
    np.testing.assert_allclose(got.distortion, TRUE, atol=1e-9)
    relative = np.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam
    np.testing.assert_allclose(got.T_world_cam[:, :3, :3], relative[:, :3, :3], atol=1e-6)
    np.testing.assert_allclose(got.focals / got.pixel_map.scale_xy[0], FOCAL, rtol=1e-6)
    if kind == "dataset":
        both = (got.depth > 0) & (scene.depth > 0)
        ratio = got.depth[both] / scene.depth[both]
        assert both.mean() > 0.5 and np.ptp(np.quantile(ratio, [0.01, 0.99])) < 2e-3, "but for steps of 16 bits"


@pytest.mark.parametrize(
    ("model", "params", "lens"),
    [
        ("SIMPLE_RADIAL_FISHEYE", (260.0, 240.0, 180.0, 0.03), (0.03, 0, 0, 0)),
        ("RADIAL_FISHEYE", (260.0, 240.0, 180.0, 0.03, -0.01), (0.03, -0.01, 0, 0)),
        ("OPENCV_FISHEYE", (260.0, 261.0, 240.0, 180.0, *TRUE), tuple(TRUE)),
    ],
)
def test_fisheye_lenses_of_colmap(tmp_path: Path, model: str, params: tuple[float, ...], lens: tuple) -> None:
    """All of them are OpenCV's with fewer numbers, by COLMAP's own projection."""
    (tmp_path / "images.txt").write_text("")
    (tmp_path / "cameras.txt").write_text(f"1 {model} {WIDTH} {HEIGHT} {' '.join(map(str, params))}\n")
    camera = read_model(tmp_path).cameras[1]
    assert camera.fisheye and camera.distortion == lens
    theirs = pycolmap.Camera(camera_id=1, model=model, width=WIDTH, height=HEIGHT, params=list(params))
    ray = np.array([0.8, -0.5])
    shown = distort(ray, FisheyeDistortion(camera.distortion)) * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    np.testing.assert_allclose(theirs.img_from_cam(np.append(ray, 1.0)), shown, atol=1e-6)


def test_pictures_of_several_fisheyes_become_those_of_one_pinhole(tmp_path: Path) -> None:
    clip = pinhole_clip()
    frames, _, _ = fisheye_clip(tmp_path, clip)
    K = np.tile(np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]]), (3, 1, 1))
    lens = CommonLens(K, np.tile(TRUE, (3, 1)), [(WIDTH, HEIGHT)] * 3, (WIDTH, HEIGHT), fisheye=True)
    height, width = clip.depth.shape[1:]
    at = (pixel_grid(HEIGHT, WIDTH) - lens.K[0, :2, 2]) / lens.focals[0] * clip.focal
    x, y = np.moveaxis(at + np.array([width, height]) / 2 - 0.5, -1, 0).astype(np.float32)
    truth = cv2.remap(clip.images[0], x, y, cv2.INTER_CUBIC).astype(float)
    assert np.median(np.abs(lens.resampled(frames.images[0], 0) - truth)) < 4


def test_pinhole_grid_of_a_fisheye_frame(tmp_path: Path) -> None:
    """Stereo depth looks at a picture without distortion: there the true depth of a frame is that of its own pixels."""
    scene = true_scene(tmp_path)
    grid = pinhole_grid(scene, 0)
    inverse = 1 / scene.depth[0]
    back, _ = grid.back(grid.picture(inverse.astype(np.float32)), np.ones(grid.size, np.float32))
    seen = back > 0
    assert seen.mean() > 0.5 and np.median(np.abs(back[seen] / inverse[seen] - 1)) < 1e-3


def test_report_knows_the_field_of_view(tmp_path: Path) -> None:
    scene = true_scene(tmp_path)
    found = measure(scene).measures
    edge = undistort(np.array([WIDTH / 2 / FOCAL, 0.0]), TRUE)[0]
    assert found.fov == pytest.approx(np.degrees(2 * np.arctan(edge)), abs=0.01) and found.fov_without_fisheye is None
    assert found.colour_gain is not None and found.colour_gain < 0.5, "the lens explains the picture"
