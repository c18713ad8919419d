"""The written dataset against the truth of an analytic room, pixel by pixel, and what may happen to a folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open3d
import pytest
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from easi3r_ns.check.examine import check_folder
from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.downscale import shrink_image
from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import SparsePoints, choose_scale, rescale_scene
from easi3r_ns.core.surface import grow_mask
from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.dataset import nerfstudio as export
from easi3r_ns.dataset.nerfstudio import check_loads, write_dataset
from easi3r_ns.dataset.resample import depth_at_source, shrink_static, static_at_source
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.frames import ImageGeometry, plan_preprocessing
from tests.support.dataset_scene import Truth, make_scene, network_pixels, room_color, source_pixels
from tests.support.helpers import Lines

CONFIG = DatasetConfig(num_downscales=2, max_init_points=5000)
# Sizes: landscape, portrait, rounding resize with a crop, square cropped to 4:3, the DAVIS size, uncropped, odd sides.
SIZES = [(320, 240), (240, 320), (320, 213), (200, 200), (427, 240), (256, 192), (333, 187)]


def _write(folder: Path, wh=(320, 213), frames=3, config=CONFIG, **options):
    scene, truth = make_scene(folder / "store", wh, frames)
    write_dataset(scene, folder / "out", config, RunLog(), **options)
    return scene, truth, folder / "out"


class _Written:
    """A frame read back by the book: half-pixel centres, OpenGL camera, 0.001 units a step, world z up."""

    def __init__(self, out: Path, position: int, factor: int = 1) -> None:
        meta = json.loads((out / "transforms.json").read_text())
        frame = {**meta, **meta["frames"][position]}
        self.K = np.array([frame[key] for key in ("fl_x", "fl_y", "cx", "cy")]) / factor
        self.c2w, self.applied = np.array(frame["transform_matrix"]), np.array(meta["applied_transform"])
        sub = "" if factor == 1 else f"_{factor}"
        read = {key: out / frame[key].replace("/", f"{sub}/") for key in ("file_path", "mask_path", "depth_file_path")}
        self.image = cv2.imread(str(read["file_path"]))[..., ::-1]
        self.static = cv2.imread(str(read["mask_path"]), -1) == 255
        self.depth = cv2.imread(str(read["depth_file_path"]), -1) * 0.001

    def lift(self) -> np.ndarray:
        """(h, w, 3) points in the dataset's world."""
        height, width = self.depth.shape
        xy = source_pixels((width, height))
        rays = np.dstack(
            [(xy[..., 0] - self.K[2]) / self.K[0], -(xy[..., 1] - self.K[3]) / self.K[1], -np.ones((height, width))]
        )
        return (rays * self.depth[..., None]) @ self.c2w[:3, :3].T + self.c2w[:3, 3]

    def to_scene_world(self, points: np.ndarray) -> np.ndarray:
        """Dataset's world -> the Scene's, by undoing applied_transform."""
        return (points - self.applied[:, 3]) @ self.applied[:, :3]


@pytest.mark.parametrize("wh", SIZES, ids=lambda wh: f"{wh[0]}x{wh[1]}")
@pytest.mark.parametrize("factor", [1, 4])
def test_depth_reprojects_to_within_half_a_pixel(tmp_path, wh, factor):
    scene, truth, out = _write(tmp_path, wh)
    for position, other in ((0, 2), (2, 1)):
        written = _Written(out, position, factor)
        world = written.to_scene_world(written.lift())
        height, width = written.depth.shape
        _, expected, hit = truth.cast(position, source_pixels((width, height)) * factor)
        good = (written.depth > 0) & written.static & ~hit
        assert good.mean() > 0.4
        error = np.linalg.norm(truth.project(other, world[good]) - truth.project(other, expected[good]), axis=-1)
        # Only where two walls meet does the grid of the network cut a corner.
        assert np.quantile(error, 0.99) < 0.5 and np.median(error) < 0.05
        # The same in the frame itself: intrinsics, axes and the half pixel.
        own = np.linalg.norm(
            truth.project(position, world[good]) - (source_pixels((width, height)) * factor)[good], axis=-1
        )
        assert own.max() < 1e-6 * max(wh) + 1e-3
        colors = room_color(world)[good]
        assert np.median(np.abs(colors.astype(int) - written.image[good])) <= 2 * factor


@pytest.mark.parametrize("wh", [(640, 426), (854, 480), (480, 854), (640, 480)], ids=lambda wh: f"{wh[0]}x{wh[1]}")
def test_square_pixels_survive_the_rounding_of_the_resize(tmp_path, wh):
    scene, truth = make_scene(tmp_path / "store", wh, 2, ImageGeometry(512, 16))
    write_dataset(scene, tmp_path / "out", replace(CONFIG, num_downscales=0), RunLog())
    written = _Written(tmp_path / "out", 0)
    world = written.to_scene_world(written.lift())
    _, expected, hit = truth.cast(0, source_pixels(wh))
    good = (written.depth > 0) & ~hit & written.static
    error = np.linalg.norm(truth.project(1, world[good]) - truth.project(1, expected[good]), axis=-1)
    assert np.quantile(error, 0.99) < 0.5
    assert np.abs(truth.project(0, world[good]) - source_pixels(wh)[good]).max() < 0.5


@pytest.mark.parametrize("wh", SIZES, ids=lambda wh: f"{wh[0]}x{wh[1]}")
def test_static_cloud_projects_onto_its_colours(tmp_path, wh):
    scene, truth, out = _write(tmp_path, wh)
    cloud = open3d.io.read_point_cloud(str(out / "sparse_pc.ply"))
    points, colors = np.asarray(cloud.points), np.asarray(cloud.colors) * 255
    assert 1000 < len(points) <= CONFIG.max_init_points
    written = _Written(out, 1)
    world = written.to_scene_world(points)
    # All the way through the written camera, not through the truth.
    local = (points - written.c2w[:3, 3]) @ written.c2w[:3, :3] * [1, -1, -1]
    xy = written.K[:2] * local[:, :2] / local[:, 2:] + written.K[2:]
    np.testing.assert_allclose(xy, truth.project(1, world), atol=1e-3)
    inside = (xy > 1).all(1) & (xy < np.array(wh) - 1).all(1) & (local[:, 2] > 0)
    assert inside.mean() > 0.5
    pixels = written.image[tuple(np.floor(xy[inside]).astype(int).T[::-1])]
    assert np.median(np.abs(pixels - colors[inside])) < 6


def test_dynamic_clouds_belong_to_their_frames(tmp_path):
    scene, truth, out = _write(tmp_path)
    meta = json.loads((out / "transforms.json").read_text())
    for position, frame in enumerate(meta["frames"]):
        points = np.asarray(open3d.io.read_point_cloud(str(out / frame["dynamic_ply_path"])).points)
        written = _Written(out, position)
        xy = truth.project(position, written.to_scene_world(points))
        assert not written.static[tuple(np.floor(xy).astype(int).T[::-1])].any()
        assert scene.dynamic.masks[position].sum() == pytest.approx(len(points), rel=0.4)


def test_masks_are_white_where_static_and_a_little_larger(tmp_path):
    scene, truth, out = _write(tmp_path, (427, 240))
    for position in range(3):
        written = _Written(out, position)
        _, _, hit = truth.cast(position, source_pixels((427, 240)))
        assert not written.static[hit].any()
        # Three network pixels of growth are ten source pixels here.
        assert not written.static[grow_mask(hit, 7)].any() and written.static[~grow_mask(hit, 14)].all()
        raw = cv2.imread(str(out / f"masks/frame_{position + 1:05d}.png"), -1)
        assert raw.ndim == 2 and raw.dtype == np.uint8 and set(np.unique(raw)) == {0, 255}


def test_no_moving_pixel_is_lost_however_small():
    plan = plan_preprocessing((1280, 720), ImageGeometry(128, 8))
    mask = np.zeros(plan.network_wh[::-1], bool)
    mask[20, 30] = True
    static = static_at_source(mask, plan, 0)
    rows, columns = np.nonzero(~static)
    assert 25 < len(rows) < 150 and abs(columns.mean() + 0.5 - 305) < 0.6 and abs(rows.mean() + 0.5 - 205) < 0.6
    for factor in (2, 4, 8):
        small = shrink_static(static, factor)
        assert small.shape == (720 // factor, 1280 // factor)
        assert not small[rows // factor, columns // factor].any()


def test_outside_of_the_crop_masks_continue_and_depth_is_unknown():
    plan = plan_preprocessing((200, 200), ImageGeometry(128, 8))
    assert plan.network_wh == (128, 96)
    mask = np.zeros((96, 128), bool)
    mask[:10, 50:60] = True
    static = static_at_source(mask, plan, 0)
    assert not static[:25, 85].any() and static[:25, 20].all() and static[180:].all()
    depth = depth_at_source(np.full((96, 128), 2.0, np.float32), plan)
    assert (depth[:24] == 0).all() and (depth[-24:] == 0).all() and (depth[26:-26] == 2.0).all()


def _depth_naive(depth: np.ndarray, plan, factor: int) -> np.ndarray:
    """Pixel by pixel: bilinear in 1/z when its four neighbours are one surface, else the nearest."""
    width, height = plan.source_wh[0] // factor, plan.source_wh[1] // factor
    out = np.zeros((height, width))
    rows, columns = depth.shape
    for v in range(height):
        for u in range(width):
            x = (u + 0.5) * factor * plan.scale_xy[0] - plan.crop_box[0] - 0.5
            y = (v + 0.5) * factor * plan.scale_xy[1] - plan.crop_box[1] - 0.5
            if not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5):
                continue
            x0, y0 = min(max(int(np.floor(x)), 0), columns - 2), min(max(int(np.floor(y)), 0), rows - 2)
            near = depth[
                min(max(int(np.floor(y + 0.5)), 0), rows - 1), min(max(int(np.floor(x + 0.5)), 0), columns - 1)
            ]
            four = depth[y0 : y0 + 2, x0 : x0 + 2]
            if (four > 0).all() and four.max() <= 1.05 * four.min():
                a, b = min(max(x - x0, 0), 1), min(max(y - y0, 0), 1)
                near = 1 / ((1 / four[0] @ [1 - a, a]) * (1 - b) + (1 / four[1] @ [1 - a, a]) * b)
            out[v, u] = near
    return out


@pytest.mark.parametrize("wh, factor", [((97, 64), 1), ((64, 97), 2), ((90, 90), 1), ((40, 31), 1)])
def test_depth_resampling_equals_its_naive_twin(wh, factor):
    rng = np.random.default_rng(0)
    plan = plan_preprocessing(wh, ImageGeometry(64, 8))
    y, x = np.mgrid[: plan.network_wh[1], : plan.network_wh[0]]
    depth = (2 + 0.02 * x + 0.01 * y + (x > 30) * 2).astype(np.float32)
    depth[rng.uniform(size=depth.shape) < 0.1] = 0
    np.testing.assert_allclose(depth_at_source(depth, plan, factor), _depth_naive(depth, plan, factor), rtol=1e-5)


def test_depth_edges_are_not_smeared_and_zero_is_never_mixed_in():
    plan = plan_preprocessing((512, 384), ImageGeometry(128, 8))
    depth = np.full((96, 128), 2.0, np.float32)
    depth[:, 64:], depth[40:50, 20:30] = 5.0, 0.0
    for factor in (1, 2, 4, 8):
        assert set(np.unique(depth_at_source(depth, plan, factor))) == {0.0, 2.0, 5.0}


def test_planes_come_out_exactly():
    plan = plan_preprocessing((500, 375), ImageGeometry(128, 8))

    def plane(xy: np.ndarray) -> np.ndarray:
        return 1 / (0.3 + 0.0003 * xy[..., 0] - 0.0002 * xy[..., 1])

    source = source_pixels((500, 375))
    got, exact = depth_at_source(plane(network_pixels(plan)).astype(np.float32), plan), plane(source)
    inner = np.s_[4:-4, 4:-4]
    np.testing.assert_allclose(got[inner], exact[inner], rtol=1e-5)


def test_untrusted_and_far_depth_is_unknown(tmp_path):
    scene, truth = make_scene(tmp_path / "store", (256, 192), 2)
    depth, confidence = scene.depth.copy(), scene.confidence.copy()
    confidence[:, :, :32], confidence[:, :, 32:48] = 1.05, 0.0
    depth[:, :, -32:] = 65.6
    write_dataset(replace(scene, depth=depth, confidence=confidence), tmp_path / "out", CONFIG, RunLog())
    written = cv2.imread(str(tmp_path / "out/depths/frame_00001.png"), -1)
    assert written.dtype == np.uint16
    assert (written[:, :94] == 0).all() and (written[:, -62:] == 0).all() and (written[:, 98:-66] > 0).all()


def test_downscaled_images_are_exact_block_means(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    small = shrink_image(image, 4)
    naive = [[image[4 * v : 4 * v + 4, 4 * u : 4 * u + 4].mean((0, 1)) for u in range(12)] for v in range(9)]
    assert small.shape == (9, 12, 3)
    np.testing.assert_allclose(small, naive, atol=0.51)


def test_images_are_the_source_frames_untouched(tmp_path):
    scene, _, out = _write(tmp_path)
    for position, source in enumerate(scene.source_paths):
        image = out / f"images/frame_{position + 1:05d}.png"
        assert image.read_bytes() == source.read_bytes() and os.path.samefile(image, source)


def test_copies_where_links_are_not_possible(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "other disk")

    monkeypatch.setattr(os, "link", refuse)
    scene, _, out = _write(tmp_path)
    assert (out / "images/frame_00001.png").read_bytes() == scene.source_paths[0].read_bytes()
    assert not os.path.samefile(out / "images/frame_00001.png", scene.source_paths[0])


def test_the_json_is_strict_and_complete(tmp_path):
    scene, _, out = _write(tmp_path, splits={"train": [0, 1], "val": [2], "test": [2]})
    meta = json.loads((out / "transforms.json").read_text(), parse_constant=pytest.fail)
    assert meta["camera_model"] == "OPENCV" and [meta[k] for k in ("k1", "k2", "p1", "p2")] == [0.0] * 4
    assert (meta["w"], meta["h"]) == (320, 213) and meta["ply_file_path"] == "sparse_pc.ply"
    assert {"version": "test", "peak": None}.items() <= meta["easi3r"].items()
    assert meta["train_filenames"] == ["images/frame_00001.png", "images/frame_00002.png"]
    assert meta["val_filenames"] == meta["test_filenames"] == ["images/frame_00003.png"]
    frame = meta["frames"][1]
    assert (frame["source"], frame["frame_index"], frame["time"]) == ("clip.mp4", 3, pytest.approx(0.6))
    assert "fl_x" in meta and "fl_x" not in frame
    check_loads(out, RunLog())


def test_focal_lengths_of_a_zoom_go_to_the_frames(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 3)
    write_dataset(replace(scene, focals=scene.focals * [1, 1.1, 1.2]), tmp_path / "out", CONFIG, RunLog())
    meta = json.loads((tmp_path / "out/transforms.json").read_text())
    assert "fl_x" not in meta and [frame["fl_x"] for frame in meta["frames"]] == pytest.approx([288, 316.8, 345.6])
    # What all frames share stands at the top, for readers that look for a size and a centre there alone.
    shared = ("w", "h", "cx", "cy")
    assert [meta[key] for key in shared] == pytest.approx([320, 213, 160, 106.5])
    assert not any(key in frame for key in shared for frame in meta["frames"]) and "fl_y" not in meta
    check_loads(tmp_path / "out", RunLog())
    config = NerfstudioDataParserConfig(data=tmp_path / "out", eval_mode="all", downscale_factor=1)
    cameras = config.setup().get_dataparser_outputs("train").cameras
    assert cameras.fx[:, 0].tolist() == cameras.fy[:, 0].tolist() == pytest.approx([288, 316.8, 345.6])
    assert cameras.cx[:, 0].tolist() == [160.0] * 3 and cameras.height[:, 0].tolist() == [213] * 3


def test_instant_ngp_finds_its_keys(tmp_path):
    scene, _, out = _write(tmp_path)
    meta = json.loads((out / "transforms.json").read_text())
    assert meta["integer_depth_scale"] == 0.001
    assert all(frame["depth_path"] == frame["depth_file_path"] for frame in meta["frames"])
    places = np.asarray(open3d.io.read_point_cloud(str(out / "sparse_pc.ply")).points)
    inside = (np.abs(0.33 * places) <= meta["aabb_scale"] / 2).all(axis=1)
    half = (np.abs(0.33 * places) <= meta["aabb_scale"] / 4).all(axis=1)
    assert inside.mean() > 0.98 > half.mean() and meta["aabb_scale"] in {2**k for k in range(8)}
    write_dataset(scene, tmp_path / "no", replace(CONFIG, depths=False), RunLog())
    meta = json.loads((tmp_path / "no/transforms.json").read_text())
    assert "integer_depth_scale" not in meta and "depth_path" not in meta["frames"][0]


@pytest.mark.parametrize("reach, box", [(0.1, 1), (1.5, 1), (1.6, 2), (3.0, 2), (3.1, 4), (1e4, 128), (0.0, 1)])
def test_the_box_of_instant_ngp_is_the_smallest_that_holds_the_scene(reach, box):
    assert export.aabb_scale(np.array([[0, 0, 0], [0.0, -reach, 0]])) == box


@pytest.mark.parametrize("splits", [{"train": [0]}, {"train": [0], "val": [3], "test": [1]}])
def test_impossible_splits(tmp_path, splits):
    with pytest.raises(InputError):
        _write(tmp_path, splits=splits)
    assert not (tmp_path / "out").exists()


def test_without_movers_and_without_depth(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 3)
    still = replace(
        scene, dynamic=DynamicMasks(np.zeros_like(scene.dynamic.masks), scene.dynamic.score, float("nan"), "none")
    )
    write_dataset(still, tmp_path / "out", replace(CONFIG, depths=False), RunLog())
    assert not (tmp_path / "out/dynamic").exists() and not (tmp_path / "out/depths").exists()
    assert (cv2.imread(str(tmp_path / "out/masks/frame_00002.png"), -1) == 255).all()
    check_loads(tmp_path / "out", RunLog())


def test_no_point_at_all_is_said(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 2)
    log = RunLog()
    write_dataset(replace(scene, confidence=np.ones_like(scene.confidence)), tmp_path / "out", CONFIG, log)
    assert any("only 0 points are static" in warning for warning in log.warnings)
    meta = json.loads((tmp_path / "out/transforms.json").read_text())
    assert meta["easi3r"]["warnings"] == log.warnings, "also those of the last stage before the file is written"
    assert not any("dynamic_ply_path" in frame for frame in meta["frames"]) and not list(
        (tmp_path / "out").glob("dynamic/*")
    )
    check_loads(tmp_path / "out", log)


def test_the_scene_is_left_alone(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 2)
    before = [array.copy() for array in (scene.T_world_cam, scene.depth, scene.dynamic.masks, scene.images)]
    write_dataset(scene, tmp_path / "out", CONFIG, RunLog())
    for array, copy in zip((scene.T_world_cam, scene.depth, scene.dynamic.masks, scene.images), before):
        np.testing.assert_array_equal(array, copy)


# What may happen to a folder


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_dataset_is_not_overwritten_by_accident(tmp_path):
    scene, _, out = _write(tmp_path)
    before = _snapshot(out)
    with pytest.raises(OutputError, match="--overwrite"):
        write_dataset(scene, out, CONFIG, RunLog())
    assert _snapshot(out) == before


def test_overwrite_replaces_ours_and_keeps_what_is_foreign(tmp_path):
    scene, _, out = _write(tmp_path, frames=4)
    (out / "notes.txt").write_text("mine")
    (out / "images/extra.png").write_bytes(b"mine")
    fewer, _ = make_scene(tmp_path / "store2", (200, 200), 2)
    write_dataset(fewer, out, replace(CONFIG, num_downscales=1), RunLog(), overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and (out / "images/extra.png").read_bytes() == b"mine"
    assert sorted(file.name for file in (out / "images").iterdir()) == [
        "extra.png",
        "frame_00001.png",
        "frame_00002.png",
    ]
    assert not (out / "masks_4").exists()
    # The first dataset's images were links to its store: that has kept its content.
    assert cv2.imread(str(scene.source_paths[0])).shape == (213, 320, 3)
    check_loads(out, RunLog())


def test_foreign_files_are_in_the_way_even_with_overwrite(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 2)
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    (out / "images/frame_00002.png").write_bytes(b"the user's own picture")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="frame_00002.png"):
            write_dataset(scene, out, CONFIG, RunLog(), overwrite=overwrite)
    assert _snapshot(out) == {"images/frame_00002.png": b"the user's own picture"}
    shutil.rmtree(out)
    out.mkdir()
    (out / "transforms.json").write_text("{}")
    with pytest.raises(OutputError, match="not written by easi3r"):
        write_dataset(scene, out, CONFIG, RunLog(), overwrite=True)
    assert (out / "transforms.json").read_text() == "{}"


@pytest.mark.parametrize("killed_at", [0, 3, 12, 20])
def test_a_kill_leaves_no_transforms_and_the_next_run_goes_through(tmp_path, monkeypatch, killed_at):
    """The old dataset is being replaced when the run dies at its n-th file."""
    scene, _, out = _write(tmp_path)
    calls = []

    def dying(write):
        def call(path, image):
            calls.append(path)
            if len(calls) > killed_at:
                path.with_name(f".{path.name}.1.1.tmp").write_bytes(b"half")
                raise KeyboardInterrupt
            write(path, image)

        return call

    for name in ("write_png", "write_image"):
        monkeypatch.setattr(export, name, dying(getattr(export, name)))
    with pytest.raises(KeyboardInterrupt):
        write_dataset(scene, out, CONFIG, RunLog(), overwrite=True)
    assert not (out / "transforms.json").exists()
    monkeypatch.undo()
    write_dataset(scene, out, CONFIG, RunLog())
    check_loads(out, RunLog())
    assert not list(out.rglob("*.tmp"))


def test_several_workers_write_what_one_does(tmp_path, monkeypatch):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 7)
    written = []
    for cores in (1, 8):
        monkeypatch.setattr("easi3r_ns.core.workers.usable_cores", lambda cores=cores: cores)
        write_dataset(scene, tmp_path / str(cores), CONFIG, RunLog())
        files = _snapshot(tmp_path / str(cores))
        files.pop("transforms.json"), files.pop("scene/scene.json")  # they say how long it took
        written.append(files)
    assert written[0] == written[1] and len(written[0]) > 7 * 9


def test_a_full_disk_is_said_clearly(tmp_path, monkeypatch):
    replace_file, calls = os.replace, []

    def full(*paths):
        calls.append(paths)
        if len(calls) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(*paths)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        _write(tmp_path)
    assert not (tmp_path / "out/transforms.json").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 2)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="choose another"):
        write_dataset(scene, tmp_path / "file" / "out", CONFIG, RunLog())


# Loading back


@pytest.mark.parametrize("wh, frames", [((320, 213), 12), ((240, 320), 3)])
def test_nerfstudio_sees_the_cameras_and_points_that_were_written(tmp_path, wh, frames):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    scene, truth, out = _write(tmp_path, wh, frames)
    check_loads(out, RunLog())
    for factor in (1, 2, 4):
        parsed = (
            NerfstudioDataParserConfig(data=out, downscale_factor=factor, load_3D_points=True)
            .setup()
            .get_dataparser_outputs("train")
        )
        c2w, scale = parsed.dataparser_transform.numpy(), parsed.dataparser_scale
        positions = [int(path.stem[-5:]) - 1 for path in parsed.image_filenames]
        for camera, position in enumerate(positions):
            pose = parsed.cameras.camera_to_worlds[camera].numpy()
            # dataparser_transform leads from the ORIGINAL world, which is the Scene's.
            original = np.vstack([c2w, [0, 0, 0, 1]]) @ scene.T_world_cam[position] @ np.diag([1.0, -1, -1, 1])
            np.testing.assert_allclose(pose[:, :3], original[:3, :3], atol=1e-5)
            np.testing.assert_allclose(pose[:, 3], scale * original[:3, 3], atol=1e-4 * scale)
            points = parsed.metadata["points3D_xyz"].numpy()
            local = (points - pose[:, 3]) @ pose[:, :3] * [1, -1, -1]
            fx, fy, cx, cy = (float(getattr(parsed.cameras, key)[camera, 0]) for key in ("fx", "fy", "cx", "cy"))
            xy = np.stack([fx * local[:, 0] / local[:, 2] + cx, fy * local[:, 1] / local[:, 2] + cy], axis=1)
            world = (points / scale - c2w[:, 3]) @ c2w[:, :3]
            front = local[:, 2] > 0.1 * scale
            np.testing.assert_allclose(xy[front], truth.project(position, world)[front] / factor, atol=0.02)


def test_loading_back_finds_faults(tmp_path):
    _, _, out = _write(tmp_path)
    (out / "masks_2/frame_00002.png").unlink()
    with pytest.raises(OutputError, match="masks_2/frame_00002.png"):
        check_loads(out, RunLog())
    _, _, out = _write(tmp_path / "b")
    cv2.imwrite(str(out / "depths/frame_00001.png"), np.zeros((10, 10), np.uint16))
    with pytest.raises(OutputError, match="depths/frame_00001.png"):
        check_loads(out, RunLog())
    _, _, out = _write(tmp_path / "c")
    meta = json.loads((out / "transforms.json").read_text())
    meta["frames"][0].pop("mask_path")
    (out / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(OutputError, match="nerfstudio cannot load"):
        check_loads(out, RunLog())


@pytest.mark.parametrize("file", ["images/frame_00004.png", "images_2/frame_00004.png", "depths/frame_00004.png"])
def test_files_that_end_too_early_are_found(tmp_path, file):
    """A header may be whole where the rest is not. The run's own check reads a sample, easi3r check all frames."""
    scene, _ = make_scene(tmp_path / "store", (320, 213), 8)
    out = tmp_path / "out"
    write_dataset(scene, out, CONFIG, RunLog())
    log = Lines()
    check_loads(out, log)
    assert "check: headers of all 8 frames, every pixel of 5 of them (1, 3, 5, 6, 8)" in log.said[-1]
    assert check_folder(out, ("nerfstudio",))[0].findings[0].state == "pass"
    (out / file).write_bytes((out / file).read_bytes()[:-300])
    check_loads(out, RunLog())  # not one of the five
    (found, *_) = check_folder(out, ("nerfstudio",))[0].findings
    assert found.state == "fail" and file in found.what and "cannot be decoded" in found.what
    (sampled, *_) = check_folder(out, ("nerfstudio",), sample=3)[0].findings
    assert sampled.state == "pass" and "every pixel of 3 frames was read" in sampled.what
    first = file.replace("00004", "00001")
    (out / first).write_bytes((out / first).read_bytes()[:-300])
    with pytest.raises(OutputError, match=f"{first} cannot be decoded"):
        check_loads(out, RunLog())


def test_a_camera_that_stands_still(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 3)
    fixed = replace(scene, T_world_cam=np.tile(scene.T_world_cam[:1], (3, 1, 1)))
    write_dataset(fixed, tmp_path / "out", CONFIG, RunLog())
    log = RunLog()
    check_loads(tmp_path / "out", log)
    assert any("never moves" in warning for warning in log.warnings)


# Units


@pytest.mark.parametrize("unit", [1e-3, 1.0, 250.0])
def test_units_suit_sixteen_bits(tmp_path, unit):
    scene, truth = make_scene(tmp_path / "store", (320, 213), 3)
    scene = rescale_scene(scene, unit)
    scaled = rescale_scene(scene, choose_scale(scene))
    static = scaled.depth[~scaled.dynamic.masks]
    assert np.median(static) == pytest.approx(4.0, rel=1e-4) and np.quantile(scaled.depth, 0.999) < 60
    factor = scaled.depth[0, 0, 0] / scene.depth[0, 0, 0]
    np.testing.assert_allclose(scaled.T_world_cam[:, :3, 3], factor * scene.T_world_cam[:, :3, 3], rtol=1e-5)
    far = scene.depth.copy()
    far[:, :2] = 1000 * unit
    far_scene = rescale_scene(replace(scene, depth=far), choose_scale(replace(scene, depth=far)))
    assert np.quantile(far_scene.depth, 0.999) == pytest.approx(60, rel=1e-3)
    assert choose_scale(replace(scene, depth=np.zeros_like(scene.depth))) == 1.0


def test_truth_is_what_it_says():
    truth = Truth(np.array([300.0, 300.0]), np.eye(4)[None], (320, 240))
    xy = source_pixels((320, 240))
    _, world, _ = truth.cast(0, xy)
    np.testing.assert_allclose(truth.project(0, world), xy, atol=1e-9)


def test_a_scene_without_depth_gives_its_triangulated_points_and_no_depth_maps(tmp_path):
    scene, truth = make_scene(tmp_path / "store", (320, 240), 4)
    rng = np.random.default_rng(0)
    sparse = SparsePoints(
        points=rng.uniform(-1, 1, (50, 3)) + [0, 0, 3],
        colors=rng.integers(0, 256, (50, 3), dtype=np.uint8),
        errors=np.full(50, 0.5),
        point_index=np.arange(50),
        frame_index=np.arange(50) % 4,
        pixels=rng.uniform(0, 240, (50, 2)),
    )
    nothing = np.zeros_like(scene.depth)
    sources = tuple("aligned" if k == 1 else "colmap" for k in range(len(scene)))
    lens = (0.01, 0.002, 0.0, -0.001)
    bare = replace(scene, pose_sources=sources, depth=nothing, confidence=nothing, sparse=sparse, distortion=lens)
    out = tmp_path / "out"
    splits = {"train": [0, 1, 2], "val": [3], "test": [3]}
    write_dataset(bare, out, CONFIG, RunLog(), splits=splits, verify=lambda file: check_loads(file, RunLog()))
    meta = json.loads((out / "transforms.json").read_text())
    assert [meta[key] for key in ("k1", "k2", "p1", "p2")] == [0.01, 0.002, 0.0, -0.001]
    assert tuple(entry["pose_source"] for entry in meta["frames"]) == sources
    assert not (out / "depths").exists() and not (out / "dynamic").exists()
    assert not any("depth_file_path" in frame or "dynamic_ply_path" in frame for frame in meta["frames"])
    cloud = open3d.io.read_point_cloud(str(out / "sparse_pc.ply"))
    applied, seen = np.array(meta["applied_transform"]), sparse.frame_index < 3
    np.testing.assert_allclose(np.asarray(cloud.points), sparse.points[seen] @ applied[:, :3].T, atol=1e-6)
    np.testing.assert_array_equal(np.rint(np.asarray(cloud.colors) * 255), sparse.colors[seen])


def test_a_frame_on_its_side_is_upright_where_its_lens_looks_beside_the_middle(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (160, 120), 3)
    scene = replace(scene, principal_point=np.asarray(scene.principal_point) + [7.0, -4.0])
    write_dataset(scene, tmp_path / "lying", DatasetConfig(num_downscales=1), RunLog())
    turned = np.array([False, True, False])
    write_dataset(replace(scene, turned=turned), tmp_path / "out", DatasetConfig(num_downscales=1), RunLog())
    before, after = (
        [{**meta, **frame} for frame in meta["frames"]]
        for meta in (json.loads((tmp_path / name / "transforms.json").read_text()) for name in ("lying", "out"))
    )
    lying, standing = before[1], after[1]
    assert (standing["w"], standing["h"]) == (120, 160) and (after[0]["w"], after[0]["h"]) == (160, 120)
    assert (standing["cx"], standing["cy"]) == pytest.approx((120 - lying["cy"], lying["cx"]))
    for key in ("file_path", "mask_path", "depth_file_path"):
        for folder in ("", "_2"):
            name = f"{lying[key].split('/')[0]}{folder}/{lying[key].split('/')[1]}"
            pictures = [cv2.imread(str(tmp_path / d / name), cv2.IMREAD_UNCHANGED) for d in ("lying", "out")]
            off = np.abs(np.rot90(pictures[0], -1).astype(int) - pictures[1])
            # Depth between two pixels of the grid is rounded to the one on the other side.
            assert (off <= (1 if "depth" in key else 0)).mean() > (0.98 if "depth" in key else 1 - 1e-9), name
    point = np.array([0.3, -0.2, 2.0, 1.0])  # in the lying camera, OpenGL axes
    world = np.array(lying["transform_matrix"]) @ (point * [1, -1, -1, 1])
    x, y, z, _ = np.linalg.inv(standing["transform_matrix"]) @ world * [1, -1, -1, 1]
    assert (x, y, z) == pytest.approx((0.2, 0.3, 2.0))


def test_ids_of_objects_are_written_beside_the_masks(tmp_path):
    scene, truth = make_scene(tmp_path / "store", (320, 213), 3)
    ids = scene.dynamic.masks.astype(np.uint16)
    ids[:, :, : ids.shape[2] // 3] *= 2  # the ball lies in both parts in some frame
    told = replace(scene, dynamic=replace(scene.dynamic, objects=ids))
    write_dataset(told, tmp_path / "out", CONFIG, RunLog())
    meta = json.loads((tmp_path / "out/transforms.json").read_text())
    seen = set()
    for position, frame in enumerate(meta["frames"]):
        assert frame["object_mask_path"] == f"masks_objects/frame_{position + 1:05d}.png"
        written = cv2.imread(str(tmp_path / "out" / frame["object_mask_path"]), -1)
        white = cv2.imread(str(tmp_path / "out" / frame["mask_path"]), -1) > 0
        assert written.dtype == np.uint16 and written.shape == (213, 320)
        np.testing.assert_array_equal(written == 0, white)
        seen |= set(np.unique(written))
    assert seen == {0, 1, 2}
    (verdict,) = check_folder(tmp_path / "out", ["nerfstudio"])
    assert any("ids of 2 objects" in finding.what for finding in verdict.findings)
    again = read_scene(tmp_path / "out/scene").dynamic.objects
    np.testing.assert_array_equal(again, ids)
    cv2.imwrite(str(tmp_path / "out/masks_objects/frame_00001.png"), np.ones((213, 320), np.uint16))
    (verdict,) = check_folder(tmp_path / "out", ["nerfstudio"])
    assert any(f.state == "fail" and "not 0 exactly where" in f.what for f in verdict.findings)
    cv2.imwrite(str(tmp_path / "out/masks_objects/frame_00001.png"), np.ones((213, 320), np.uint8))
    (verdict,) = check_folder(tmp_path / "out", ["nerfstudio"])
    assert any(f.state == "fail" and "no 16-bit image" in f.what for f in verdict.findings)
    write_dataset(scene, tmp_path / "out", CONFIG, RunLog(), overwrite=True)
    assert not list((tmp_path / "out").glob("masks_objects/*"))
