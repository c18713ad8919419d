"""Folders written as the demos write them, read back; then on to a dataset, its exports and their errors."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.cli import main as cli
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import transform
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.importers.folder import ImportOptions, import_folder
from tests.support.clip_scene import perfect_scene, sharp_clip
from tests.support.helpers import npz_that_announces

FRAMES, HEIGHT, WIDTH = 5, 48, 64


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    """In another world than that of its first camera, as the demos leave it."""
    made = perfect_scene(sharp_clip(3, FRAMES, HEIGHT, WIDTH), tmp_path_factory.mktemp("clip"))
    away = np.eye(4)
    away[:3, :3], away[:3, 3] = Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix(), [3, -1, 2]
    confidence = np.random.default_rng(0).uniform(1, 9, made.depth.shape).astype(np.float32)
    return replace(made, T_world_cam=away @ made.T_world_cam, confidence=confidence)


def intrinsics(scene: Scene, frame: int) -> np.ndarray:
    focal, (cx, cy) = scene.focals[frame], scene.principal_point
    return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])


def write_demo(scene: Scene, folder: Path, mask: str = "dynamic_mask_{}.png", digits: int = 4) -> Path:
    """As MonST3R's demo does it, written without our own code."""
    folder.mkdir()
    trajectory, lenses = [], []
    for frame in range(len(scene)):
        x, y, z, w = Rotation.from_matrix(scene.T_world_cam[frame, :3, :3]).as_quat()
        trajectory.append([float(frame), *scene.T_world_cam[frame, :3, 3], w, x, y, z])
        lenses.append(intrinsics(scene, frame).ravel())
        stem = f"frame_{frame:0{digits}d}"
        cv2.imwrite(str(folder / f"{stem}.png"), scene.images[frame][..., ::-1])
        np.save(folder / f"{stem}.npy", scene.depth[frame])
        np.save(folder / f"conf_{frame}.npy", scene.confidence[frame])
        cv2.imwrite(str(folder / mask.format(frame)), scene.dynamic.masks[frame].astype(np.uint8) * 255)
    np.savetxt(folder / "pred_traj.txt", trajectory)
    np.savetxt(folder / "pred_intrinsics.txt", lenses, fmt="%.6f")
    return folder


def write_cut3r(scene: Scene, folder: Path) -> Path:
    for name in ("camera", "depth", "conf", "color"):
        (folder / name).mkdir(parents=True)
    for frame in range(len(scene)):
        stem = f"{frame:06d}"
        np.savez(folder / "camera" / stem, pose=scene.T_world_cam[frame], intrinsics=intrinsics(scene, frame))
        np.save(folder / "depth" / stem, scene.depth[frame])
        np.save(folder / "conf" / stem, scene.confidence[frame])
        cv2.imwrite(str(folder / "color" / f"{stem}.png"), scene.images[frame][..., ::-1])
    return folder


WRITERS = {"demo": write_demo, "cut3r": write_cut3r}


@pytest.mark.parametrize("layout", WRITERS)
def test_what_is_in_the_folder_is_in_the_scene(tmp_path, scene, layout):
    folder = WRITERS[layout](scene, tmp_path / "result")
    got = import_folder(folder, ImportOptions(fps=10, min_confidence=2.0))
    np.testing.assert_array_equal(got.images, scene.images)
    factor = np.median(got.depth / scene.depth)
    np.testing.assert_allclose(got.depth, factor * scene.depth, rtol=1e-5)
    np.testing.assert_array_equal(got.confidence, scene.confidence)
    np.testing.assert_allclose(got.focals, scene.focals, rtol=1e-6)
    np.testing.assert_allclose(got.principal_point, scene.principal_point, atol=1e-6)
    relative = np.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam
    np.testing.assert_allclose(got.T_world_cam[:, :3, :3], relative[:, :3, :3], atol=1e-9)
    np.testing.assert_allclose(got.T_world_cam[:, :3, 3], factor * relative[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(got.times, np.arange(FRAMES) / 10)
    assert got.min_confidence == 2.0 and len(got.source_paths) == FRAMES
    if layout == "demo":
        np.testing.assert_array_equal(got.dynamic.masks, scene.dynamic.masks)
        assert got.dynamic.source == "user"
    else:
        assert got.dynamic.source == "none" and not got.dynamic.masks.any()


@pytest.mark.parametrize(("mask", "digits"), [("enlarged_dynamic_mask_{}.png", 4), ("dynamic_mask_{:04d}.png", 1)])
def test_variants_of_the_names(tmp_path, scene, mask, digits):
    """Padded or not; frame 10 comes after frame 9; the plain masks win over the enlarged ones."""
    long = replace_frames(scene, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 1])
    folder = write_demo(long, tmp_path / "result", mask, digits)
    got = import_folder(folder)
    np.testing.assert_array_equal(got.images, long.images)
    np.testing.assert_array_equal(got.dynamic.masks, long.dynamic.masks)
    if mask.startswith("enlarged"):
        for frame in range(len(long)):
            cv2.imwrite(str(folder / f"dynamic_mask_{frame}.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
        assert not import_folder(folder).dynamic.masks.any()


def replace_frames(scene: Scene, order: list[int]) -> Scene:
    per_frame = ("images", "T_world_cam", "focals", "depth", "confidence", "times", "indices")
    return replace(
        scene,
        **{name: getattr(scene, name)[order] for name in per_frame},
        dynamic=replace(scene.dynamic, masks=scene.dynamic.masks[order], score=scene.dynamic.score[order]),
        names=("x",) * len(order),
        source_paths=tuple(scene.source_paths[k] for k in order),
    )


def test_masks_of_ones_and_missing_confidence(tmp_path, scene):
    folder = write_demo(scene, tmp_path / "result")
    for frame in range(FRAMES):
        (folder / f"conf_{frame}.npy").unlink()
        cv2.imwrite(str(folder / f"dynamic_mask_{frame}.png"), scene.dynamic.masks[frame].astype(np.uint8))
    depth = scene.depth[2].copy()
    depth[:5], depth[5:8], depth[8] = np.nan, -1, np.inf
    np.save(folder / "frame_0002.npy", depth)
    got = import_folder(folder)
    np.testing.assert_array_equal(got.dynamic.masks, scene.dynamic.masks)
    assert (got.depth[2, :9] == 0).all() and (got.depth[2, 9:] > 0).all()
    np.testing.assert_array_equal(got.confidence, (got.depth > 0).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_from_the_command_line_to_dataset_and_exports(tmp_path, scene, layout):
    """The moved world notwithstanding, what is exported lies where the true cameras see it."""
    folder, out = WRITERS[layout](scene, tmp_path / "result"), tmp_path / "out"
    cli.main(["import", str(folder), "--output-dir", str(out), "--num-downscales", "0"])
    kept = find_scene(out)
    meta = json.loads((out / "transforms.json").read_text())
    assert len(meta["frames"]) == FRAMES and meta["easi3r"]["imported"].endswith("demo")
    assert kept.source_paths[0] == out / "images" / "frame_00001.png"
    cli.main(["export", str(out), "--format", "tum,cloud", "colmap"])
    done = {path.relative_to(out / "export").as_posix() for path in (out / "export").rglob("*") if path.is_file()}
    assert {"trajectory_tum.txt", "cloud.ply", "colmap/sparse/0/points3D.bin"} <= done
    rows = np.loadtxt(out / "export" / "trajectory_tum.txt")
    steps = np.linalg.norm(np.diff(rows[:, 1:4], axis=0), axis=1)
    expected = np.linalg.norm(np.diff(scene.T_world_cam[:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(steps / steps.sum(), expected / expected.sum(), rtol=1e-6)
    with pytest.raises(SystemExit) as caught:
        cli.main(["import", str(folder), "--output-dir", str(out)])
    assert caught.value.code == 5


def test_the_first_camera_is_the_world(tmp_path, scene):
    got = import_folder(write_demo(scene, tmp_path / "result"))
    np.testing.assert_allclose(got.T_world_cam[0], np.eye(4), atol=1e-9)
    one = transform(got.T_world_cam[3], np.array([0.0, 0, 1]))
    assert np.isfinite(one).all() and np.median(got.depth[~got.dynamic.masks]) == pytest.approx(4, rel=0.05)


def _cut_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].rsplit(" ", 1)[0], *lines[3:]]))


def _scaled(path: Path, factor: float, column: slice) -> None:
    rows = np.loadtxt(path)
    rows[:, column] *= factor
    np.savetxt(path, rows)


DEMO_DAMAGE = {
    "no images": (lambda f: [p.unlink() for p in f.glob("frame_*.png")], "holds no frame_0000.png"),
    "a depth map less": (lambda f: (f / "frame_0003.npy").unlink(), r"frame_0003.png has no depth map .*1 of 5"),
    "a confidence less": (lambda f: (f / "conf_2.npy").unlink(), "has no confidence"),
    "a mask less": (lambda f: (f / "dynamic_mask_4.png").unlink(), "has no mask"),
    "a pose less": (lambda f: _drop_line(f / "pred_traj.txt"), "4 camera poses for 5 images"),
    "no intrinsics": (lambda f: (f / "pred_intrinsics.txt").unlink(), "pred_intrinsics.txt cannot be read"),
    "a cut line": (lambda f: _cut_line(f / "pred_traj.txt"), "pred_traj.txt, line 3: 7 numbers, not 8"),
    "words": (lambda f: (f / "pred_traj.txt").write_text("1 2 3 4 5 6 7 x\n"), "line 1: .* is not a line of numbers"),
    "nothing": (lambda f: (f / "pred_traj.txt").write_text("# none\n"), "is empty"),
    "long quaternions": (lambda f: _scaled(f / "pred_traj.txt", 2, slice(4, 8)), "quaternion of line . has length 2"),
    "NaN pose": (lambda f: _scaled(f / "pred_traj.txt", float("nan"), slice(1, 2)), "camera poses hold a number"),
    "negative focal": (lambda f: _scaled(f / "pred_intrinsics.txt", -1, slice(0, 1)), "focal length is not positive"),
    "stretched": (lambda f: _scaled(f / "pred_intrinsics.txt", 1.3, slice(0, 1)), "not square"),
    "small depth": (lambda f: [np.save(p, np.ones((9, 9))) for p in f.glob("frame_*.npy")], "the depth 9x9 pixels"),
    "one odd depth": (lambda f: np.save(f / "frame_0001.npy", np.ones((9, 9))), r"0001.npy has the shape \(9, 9\)"),
    "pickled depth": (lambda f: np.save(f / "frame_0001.npy", {"a": 1}, allow_pickle=True), "frame_0001.npy cannot be"),
    "a volume": (lambda f: np.save(f / "frame_0001.npy", np.ones((2, 9, 9))), r"not an array \(H, W\)"),
    "no depth at all": (lambda f: [np.save(p, np.zeros((48, 64))) for p in f.glob("*.npy")], "no depth map holds"),
    "a broken image": (lambda f: (f / "frame_0002.png").write_bytes(b"png"), "frame_0002.png cannot be read"),
    "a broken mask": (lambda f: (f / "dynamic_mask_2.png").write_bytes(b"png"), "dynamic_mask_2.png cannot be read"),
}


def _drop_line(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


@pytest.mark.parametrize("kind", DEMO_DAMAGE)
def test_damaged_demo_folders_are_told(tmp_path, scene, kind):
    damage, message = DEMO_DAMAGE[kind]
    folder = write_demo(scene, tmp_path / "result")
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        import_folder(folder)
    assert str(folder) in str(caught.value)


CUT3R_DAMAGE = {
    "a camera less": (lambda f: (f / "camera" / "000001.npz").unlink(), "has no camera"),
    "no images": (lambda f: [p.unlink() for p in (f / "color").iterdir()], "holds no 000000.png"),
    "another key": (lambda f: np.savez(f / "camera/000001.npz", pose=np.eye(4)), "000001.npz cannot be read.*intrin"),
    "a flat pose": (lambda f: np.savez(f / "camera/000001.npz", pose=np.eye(3), intrinsics=np.eye(3)), r"\(3, 3\)"),
    "a sheared pose": (lambda f: np.savez(f / "camera/000001.npz", pose=2 * np.eye(4), intrinsics=np.eye(3)), "pose"),
    "a cut camera": (lambda f: (f / "camera" / "000001.npz").write_bytes(b"PK\3\4"), "000001.npz cannot be read"),
    "no depth": (lambda f: (f / "depth" / "000000.npy").unlink(), "has no depth map"),
}


@pytest.mark.parametrize("kind", CUT3R_DAMAGE)
def test_damaged_cut3r_folders_are_told(tmp_path, scene, kind):
    damage, message = CUT3R_DAMAGE[kind]
    folder = write_cut3r(scene, tmp_path / "result")
    damage(folder)
    with pytest.raises(InputError, match=message):
        import_folder(folder)


def test_other_folders_are_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        import_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is not a folder"):
        import_folder(tmp_path / "file")
    with pytest.raises(InputError, match="neither pred_traj.txt"):
        import_folder(tmp_path)


@pytest.mark.parametrize("options", [{"fps": 0.0}, {"fps": float("nan")}, {"min_confidence": -1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError, match="--"):
        ImportOptions(**options)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *(("demo", name) for name in ("frame_0002.png", "frame_0002.npy", "conf_2.npy", "dynamic_mask_2.png")),
        ("demo", "pred_intrinsics.txt"),
        *(("cut3r", name) for name in ("camera/000002.npz", "depth/000002.npy", "color/000002.png")),
    ],
)
def test_pipes_do_not_hang(tmp_path, scene, layout, name):
    folder = WRITERS[layout](scene, tmp_path / "result")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{Path(name).name} cannot be read"):
        import_folder(folder)


def test_sizes_that_files_announce_are_not_believed(tmp_path, scene):
    folder = write_cut3r(scene, tmp_path / "result")
    npz_that_announces(folder / "camera" / "000001.npz", "pose", (200_000_000_000,))
    with pytest.raises(InputError, match="000001.npz cannot be read: pose: it announces 745 GiB"):
        import_folder(folder)
    folder = write_demo(scene, tmp_path / "other")
    (folder / "frame_0001.npy").write_bytes((tmp_path / "result" / "camera" / "000002.npz").read_bytes())
    with pytest.raises(InputError, match="frame_0001.npy cannot be read"):
        import_folder(folder)
    folder = write_demo(scene, tmp_path / "third")
    image = (folder / "frame_0001.png").read_bytes()
    size = struct.pack(">II", 60_000, 60_000)
    head = b"IHDR" + size + image[24:29]
    (folder / "frame_0001.png").write_bytes(image[:12] + head + struct.pack(">I", zlib.crc32(head)) + image[33:])
    with pytest.raises(InputError, match="frame_0001.png cannot be read"):
        import_folder(folder)
