"""The independent checker passes a good dataset and names the fault of every damaged one."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import open3d
import pytest

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.geometry import OPENGL_FROM_OPENCV, Z_UP_FROM_OPENCV_WORLD, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.pointcloud import write_ply
from tests.support.dataset_scene import make_scene, write_truth

SCRIPT = Path(__file__).parents[2] / "examples" / "check_dataset.py"


def _load_checker():
    spec = importlib.util.spec_from_file_location("check_dataset", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_dataset"] = module
    spec.loader.exec_module(module)
    return module


checker = _load_checker()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    scene, truth = make_scene(folder / "store", (320, 213), num_frames=5)
    write_dataset(scene, folder / "out", DatasetConfig(num_downscales=1, max_init_points=8000), RunLog())
    write_truth(scene, truth, folder / "truth")
    return folder / "out"


def test_good_dataset_passes(good):
    report = checker.check_dataset(good, good.parent / "truth")
    assert report.ok(), str(report)
    rows = {name: value for name, value, *_ in report.rows}
    assert float(rows["truth: ATE / length of the path"]) < 1e-6
    assert float(rows["truth: focal error"]) < 1e-6
    assert float(rows["truth: masks, mean IoU"]) > 0.6


def test_checker_is_independent():
    assert "easi3r_ns" not in SCRIPT.read_text().replace('"""', "")


def test_exit_codes(good, tmp_path):
    assert subprocess.run([sys.executable, SCRIPT, good], capture_output=True).returncode == 0
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "FAIL" in done.stdout


def test_checker_projects_through_the_lens():
    rng = np.random.default_rng(0)
    K, lens = np.array([560.0, 560.0, 320.0, 240.0]), np.array([-0.1, 0.02, 0.002, -0.001])
    c2w = np.eye(4) @ OPENGL_FROM_OPENCV
    c2w[:3, 3] = [0.1, 0.2, -0.3]
    path = Path("none.png")
    frame = checker.Frame(path, None, None, None, c2w, K, lens, (640, 480), 0.0, 0, False)
    world = rng.uniform([-1, -1, 3], [1, 1, 6], (40, 3))
    xy, z = frame.project(world)
    matrix = np.array([[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]])
    by_opencv = cv2.projectPoints(world - c2w[:3, 3], np.zeros(3), np.zeros(3), matrix, lens)[0][:, 0]
    np.testing.assert_allclose(xy, by_opencv, atol=1e-9)
    np.testing.assert_allclose(frame.lift(xy, z), world, atol=1e-9)


def _edit_meta(folder: Path, edit: Callable[[dict], None]) -> None:
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    edit(meta)
    file.unlink()
    file.write_text(json.dumps(meta))


def _edit_pngs(folder: Path, kind: str, edit: Callable[[np.ndarray], np.ndarray], only: int | None = None) -> None:
    for sub in (kind, f"{kind}_2"):
        for file in sorted((folder / sub).iterdir())[: only or None]:
            image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            file.unlink()
            cv2.imwrite(str(file), edit(image))


def _edit_poses(folder: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    def poses(meta: dict) -> None:
        for frame in meta["frames"]:
            frame["transform_matrix"] = edit(np.array(frame["transform_matrix"])).tolist()

    _edit_meta(folder, poses)


def _edit_ply(folder: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    cloud = open3d.io.read_point_cloud(str(folder / "sparse_pc.ply"))
    colors = np.rint(np.asarray(cloud.colors) * 255).astype(np.uint8)
    write_ply(folder / "sparse_pc.ply", edit(np.asarray(cloud.points)), colors)


def _scale_meta(**factors: float) -> Callable[[Path], None]:
    return lambda folder: _edit_meta(folder, lambda meta: meta.update({k: meta[k] * f for k, f in factors.items()}))


def _shift_meta(**shifts: float) -> Callable[[Path], None]:
    return lambda folder: _edit_meta(folder, lambda meta: meta.update({k: meta[k] + s for k, s in shifts.items()}))


def _swap_images(folder: Path) -> None:
    for sub in ("images", "images_2"):
        files = sorted((folder / sub).iterdir())
        contents = [file.read_bytes() for file in files]
        for file, content in zip(files, contents[1:] + contents[:1]):
            file.unlink()
            file.write_bytes(content)


def _lose_mask_pixels(folder: Path) -> None:
    for file in (folder / "masks").iterdir():
        mask = cv2.imread(str(file), 0)
        cv2.imwrite(str(folder / "masks_2" / file.name), mask[1:-1:2, 1::2][: mask.shape[0] // 2])


def _blend_depth(folder: Path) -> None:
    for file in (folder / "depths").iterdir():
        depth = cv2.imread(str(file), -1)
        depth[:, 100:] = depth[:, 100:] // 2
        cv2.imwrite(str(folder / "depths_2" / file.name), cv2.resize(depth, (depth.shape[1] // 2, depth.shape[0] // 2)))


def _nan(meta: dict) -> None:
    meta["frames"][0]["time"] = float("nan")


def _stretch(T: np.ndarray) -> np.ndarray:
    T[:3, :3] *= 1.01
    return T


CORRUPTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "mask polarity": (lambda d: _edit_pngs(d, "masks", lambda m: 255 - m), "static points: share on white mask"),
    "mask polarity, moving": (
        lambda d: _edit_pngs(d, "masks", lambda m: 255 - m),
        "moving points: share on black mask",
    ),
    "mask of 0 and 1": (lambda d: _edit_pngs(d, "masks", lambda m: m // 255), "masks: one channel of 0 and 255"),
    "colour mask": (lambda d: _edit_pngs(d, "masks", lambda m: np.dstack([m] * 3)), "masks: one channel of 0 and 255"),
    "OpenCV poses": (
        lambda d: _edit_poses(d, lambda T: T @ OPENGL_FROM_OPENCV),
        "static points: share that is in an image",
    ),
    "world to camera": (lambda d: _edit_poses(d, np.linalg.inv), "static points: share that is in an image"),
    "stretched poses": (lambda d: _edit_poses(d, _stretch), "poses are rigid: error of R R^T"),
    "half a pixel": (_shift_meta(cx=-0.5, cy=-0.5), "images against points: shift beyond scatter"),
    "half a pixel in x": (_shift_meta(cx=0.5), "images against points: shift beyond scatter"),
    "focal of the network crop": (_scale_meta(fl_x=0.4, fl_y=0.4), "static points: median colour difference"),
    "focal 2 % too long": (_scale_meta(fl_x=1.02, fl_y=1.02), "images against points: zoom beyond scatter"),
    "one focal wrong": (_scale_meta(fl_y=1.05), "fl_x and fl_y differ by"),
    "depth in other units": (
        lambda d: _edit_pngs(d, "depths", lambda z: (z * 0.8).astype(np.uint16)),
        "static points against depth: median error",
    ),
    "no depth at all": (lambda d: _edit_pngs(d, "depths", np.zeros_like), "static points: share that is in an image"),
    "one small mask": (lambda d: _edit_pngs(d, "masks", lambda m: m[1:], only=1), "files of the right size"),
    "missing image": (lambda d: (d / "images_2" / "frame_00003.png").unlink(), "files of the right size"),
    "ply not turned z-up": (
        lambda d: _edit_ply(d, lambda p: transform(np.linalg.inv(Z_UP_FROM_OPENCV_WORLD), p)),
        "static points: share that is in an image",
    ),
    "ply in other units": (lambda d: _edit_ply(d, lambda p: 1.3 * p), "static points against depth: median error"),
    "no ply": (lambda d: (d / "sparse_pc.ply").unlink(), "static points"),
    "images of other frames": (_swap_images, "images against points: shift beyond scatter"),
    "mask pixels lost in masks_2": (_lose_mask_pixels, "masks_2: moving pixels lost"),
    "depth blended in depths_2": (_blend_depth, "depths_2: outside of what they cover"),
    "no applied_transform": (lambda d: _edit_meta(d, lambda m: m.pop("applied_transform")), "applied_transform: det"),
    "NaN": (lambda d: _edit_meta(d, _nan), "transforms.json is strict JSON"),
    "one frame without mask": (
        lambda d: _edit_meta(d, lambda m: m["frames"][1].pop("mask_path")),
        "masks for all frames or none",
    ),
    "times run backwards": (
        lambda d: _edit_meta(d, lambda m: m["frames"][0].update(time=9.0)),
        "time and frame_index increase",
    ),
}


def test_truth_in_the_form_of_the_example_clip(good, tmp_path):
    known = json.loads((good.parent / "truth" / "gt_cameras.json").read_text())
    frames = [{"T_world_cam": frame["c2w"]} for frame in known["frames"]]
    (tmp_path / "truth.json").write_text(json.dumps({"fx": 1.25 * known["intrinsics"]["fl_x"], "frames": frames}))
    rows = {name: value for name, value, *_ in checker.check_dataset(good, tmp_path).rows}
    assert float(rows["truth: ATE / length of the path"]) < 1e-6
    assert float(rows["truth: focal error"]) == pytest.approx(0.2)


@pytest.mark.parametrize("fault", CORRUPTIONS)
def test_every_corruption_turns_its_check_red(good, tmp_path, fault):
    damaged = tmp_path / "out"
    shutil.copytree(good, damaged)
    corrupt, expected = CORRUPTIONS[fault]
    corrupt(damaged)
    report = checker.check_dataset(damaged)
    assert expected in report.failed(), str(report)
