"""MegaSaM, ViPE and Depth Anything 3: what is in their files comes back, ours too; damage is told."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.cli import main as cli
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.export.exr import exr_bytes
from easi3r_ns.export.megasam import write_megasam
from easi3r_ns.export.vipe import write_vipe
from easi3r_ns.importers.exr import read_exr
from easi3r_ns.importers.folder import read_recording
from easi3r_ns.importers.recording import ImportOptions, to_scene
from easi3r_ns.pipelines.footage import prepare
from tests.support.clip_scene import perfect_scene, sharp_clip
from tests.support.helpers import npz_that_announces

FRAMES, HEIGHT, WIDTH = 5, 64, 96


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    """Truth, in another world than that of its first camera."""
    made = perfect_scene(sharp_clip(3, FRAMES, HEIGHT, WIDTH), tmp_path_factory.mktemp("clip"))
    away = np.eye(4)
    away[:3, :3], away[:3, 3] = Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix(), [3, -1, 2]
    return replace(made, T_world_cam=away @ made.T_world_cam, min_confidence=0.0)


def matrix(scene: Scene, frame: int) -> np.ndarray:
    focal, (cx, cy) = scene.focals[frame], scene.principal_point
    return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])


def write_theirs_megasam(scene: Scene, folder: Path) -> Path:
    """As cvd_opt.py does it: the archive in outputs_cvd, the probability of motion in reconstructions."""
    (folder / "outputs_cvd").mkdir(parents=True)
    (folder / "reconstructions" / "dog").mkdir(parents=True)
    small = [cv2.resize(m.astype(np.float32), (WIDTH // 8, HEIGHT // 8)) for m in scene.dynamic.masks]
    np.save(folder / "reconstructions" / "dog" / "motion_prob.npy", np.stack(small))
    np.savez(
        folder / "outputs_cvd" / "dog_sgd_cvd_hr.npz",
        images=scene.images,
        depths=scene.depth.astype(np.float16),
        intrinsic=matrix(scene, 0),
        cam_c2w=scene.T_world_cam,
    )
    return folder


def write_theirs_depth_anything(scene: Scene, folder: Path, *, inverse: bool = True) -> Path:
    (folder / "exports" / "npz").mkdir(parents=True)
    np.savez(
        folder / "exports" / "npz" / "results.npz",
        image=scene.images,
        depth=scene.depth,
        conf=scene.confidence,
        extrinsics=(np.linalg.inv(scene.T_world_cam) if inverse else scene.T_world_cam)[:, :3].astype(np.float32),
        intrinsics=np.stack([matrix(scene, frame) for frame in range(len(scene))]).astype(np.float32),
    )
    return folder


WRITERS: dict[str, Callable[[Scene, Path], Path]] = {
    "megasam": write_theirs_megasam,
    "depth anything": write_theirs_depth_anything,
    "depth anything, camera to world": lambda s, f: write_theirs_depth_anything(s, f, inverse=False),
    "our megasam": write_megasam,
    "our vipe": lambda s, f: write_vipe(s, f, mask_growth=0),
}


def imported(folder: Path, store: Path, options: ImportOptions = ImportOptions()) -> Scene:
    recording = read_recording(folder, options)
    return to_scene(*prepare(recording, folder, store, RunLog()), folder, options)


@pytest.mark.parametrize("layout", WRITERS)
def test_cameras_depth_and_masks_come_back(layout, scene, tmp_path):
    got = imported(WRITERS[layout](scene, tmp_path / "theirs"), tmp_path / "store", ImportOptions(fps=10))
    relative = np.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam
    known = scene.depth > 0
    factor = float(np.median(got.depth[known] / scene.depth[known]))
    half = 0.001 if "depth" not in layout else 1e-5  # of half floats
    np.testing.assert_allclose(got.depth[known], factor * scene.depth[known], rtol=half)
    np.testing.assert_allclose(got.T_world_cam[:, :3, :3], relative[:, :3, :3], atol=1e-6)
    np.testing.assert_allclose(got.T_world_cam[:, :3, 3], factor * relative[:, :3, 3], atol=2e-3)
    np.testing.assert_allclose(got.focals, scene.focals, rtol=1e-6)
    np.testing.assert_allclose(got.principal_point, scene.principal_point, atol=1e-4)
    np.testing.assert_allclose(got.times, np.arange(FRAMES) / 10)
    lossy = "vipe" in layout
    assert np.abs(got.images.astype(int) - scene.images).mean() < (8 if lossy else 1e-9)
    if "depth" in layout:
        assert got.dynamic.source == "none"
        np.testing.assert_allclose(got.confidence, scene.confidence, rtol=1e-6)
    else:
        assert got.dynamic.source == "user"
        both = (got.dynamic.masks & scene.dynamic.masks).sum() / (got.dynamic.masks | scene.dynamic.masks).sum()
        assert both > (0.99 if lossy else 0.55)  # blocks of 8 x 8 pixels in MegaSaM's


def test_the_direction_of_the_extrinsics_is_said(scene, tmp_path):
    for inverse, words in ((True, "world-to-camera"), (False, "camera-to-world")):
        folder = write_theirs_depth_anything(scene, tmp_path / words, inverse=inverse)
        assert f"the extrinsics are {words} (" in read_recording(folder).why


def test_a_still_camera_decides_nothing(scene, tmp_path):
    still = replace(scene, T_world_cam=np.tile(np.eye(4), (FRAMES, 1, 1)))
    assert "no decision" in read_recording(write_theirs_depth_anything(still, tmp_path / "theirs")).why


def test_pictures_of_their_own_size_beside_the_depth(scene, tmp_path):
    """Depth Anything's small archive: the pictures come from a folder, at twice the size."""
    folder, pictures = write_theirs_depth_anything(scene, tmp_path / "theirs"), tmp_path / "pictures"
    file = folder / "exports" / "npz" / "results.npz"
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive if name != "image"}
    np.savez(file, **arrays)
    with pytest.raises(InputError, match="holds no pictures: say with --images"):
        read_recording(folder)
    pictures.mkdir()
    for frame, image in enumerate(scene.images):
        large = cv2.resize(image, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(pictures / f"{frame}.png"), large[..., ::-1])
    got = imported(folder, tmp_path / "store", ImportOptions(images=pictures))
    assert got.pixel_map.source_wh == (2 * WIDTH, 2 * HEIGHT) and got.depth.shape == scene.depth.shape
    np.testing.assert_allclose(got.focals, scene.focals, rtol=1e-6)
    assert np.abs(got.images.astype(int) - scene.images).mean() < 6
    (pictures / "4.png").unlink()
    with pytest.raises(InputError, match="4 pictures for 5 depth maps"):
        read_recording(folder, ImportOptions(images=pictures))


def test_frames_of_vipe_may_be_a_subset(scene, tmp_path):
    folder = write_vipe(scene, tmp_path / "theirs", mask_growth=0)
    name = next((folder / "pose").iterdir()).stem
    kept = [3, 0, 1]
    np.savez(folder / "pose" / f"{name}.npz", data=scene.T_world_cam[kept].astype(np.float32), inds=np.array(kept))
    got = imported(folder, tmp_path / "store", ImportOptions(fps=10))
    assert got.indices.tolist() == [0, 1, 3] and got.times.tolist() == [0.0, 0.1, 0.3]
    assert np.abs(got.images.astype(int) - scene.images[[0, 1, 3]]).mean() < 8
    np.testing.assert_array_equal(got.dynamic.masks, scene.dynamic.masks[[0, 1, 3]])


def test_a_file_may_be_given_itself(scene, tmp_path):
    folder = write_theirs_megasam(scene, tmp_path / "theirs")
    file = folder / "outputs_cvd" / "dog_sgd_cvd_hr.npz"
    assert read_recording(file).masks is not None
    (file.parent / "cat_sgd_cvd_hr.npz").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="holds 2 clips .*give the path of one"):
        read_recording(folder)
    (folder / "reconstructions" / "dog" / "motion_prob.npy").unlink()
    recording = read_recording(file)
    assert recording.masks is None and "no motion_prob.npy" in recording.remarks[0]


@pytest.mark.parametrize("layout", ["megasam", "our vipe"])
def test_from_the_command_line(layout, scene, tmp_path, capsys):
    folder, out = WRITERS[layout](scene, tmp_path / "theirs"), tmp_path / "out"
    cli.main(["import", str(folder), "--output-dir", str(out), "--num-downscales", "0", "--no-report"])
    text = " ".join("".join(capsys.readouterr()).split())
    assert "was written by" in text and "recognised by" in text and "those of" in text
    assert len(find_scene(out)) == FRAMES and find_scene(out).has_depth


def _resaved(path: Path, **changes) -> None:
    with np.load(path) as archive:
        arrays = dict(archive) | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})


MEGASAM = "outputs_cvd/dog_sgd_cvd_hr.npz"
PROBABILITY = "reconstructions/dog/motion_prob.npy"
RESULTS = "exports/npz/results.npz"
DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a camera less": ("megasam", lambda f: _resaved(f / MEGASAM, cam_c2w=np.tile(np.eye(4), (4, 1, 1))), "4 camera"),
    "a sheared camera": (
        "megasam",
        lambda f: _resaved(f / MEGASAM, cam_c2w=np.tile(2 * np.eye(4), (5, 1, 1))),
        "not a rotation",
    ),
    "small depth": ("megasam", lambda f: _resaved(f / MEGASAM, depths=np.ones((5, 9, 20))), "the depth 20x9"),
    "flat depth": ("megasam", lambda f: _resaved(f / MEGASAM, depths=np.ones(5)), "depths has the shape"),
    "text": ("megasam", lambda f: _resaved(f / MEGASAM, depths=np.array(["x"])), "depths holds values of type"),
    "grey": ("megasam", lambda f: _resaved(f / MEGASAM, images=np.ones((5, 64, 96, 1))), "images of the shape"),
    "an intrinsic": ("megasam", lambda f: _resaved(f / MEGASAM, intrinsic=np.eye(4)), r"intrinsic has the shape"),
    "negative focal": ("megasam", lambda f: _resaved(f / MEGASAM, intrinsic=-np.eye(3)), "focal length is not"),
    "a probability less": ("megasam", lambda f: np.save(f / PROBABILITY, np.ones((4, 8, 12))), "motion_prob.npy has"),
    "no probability": ("megasam", lambda f: np.save(f / PROBABILITY, np.full((5, 8, 12), 7.0)), "outside of 0 to 1"),
    "cut probability": ("megasam", lambda f: (f / PROBABILITY).write_bytes(b"\x93NUMPY"), "cannot be read"),
    "no rotation": (
        "depth anything",
        lambda f: _resaved(f / RESULTS, extrinsics=np.ones((5, 3, 4))),
        "not a rotation and a translation",
    ),
    "NaN": (
        "depth anything",
        lambda f: _resaved(f / RESULTS, intrinsics=np.full((5, 3, 3), np.nan)),
        "focal length is not positive",
    ),
    "other counts": ("depth anything", lambda f: _resaved(f / RESULTS, depth=np.ones((4, 64, 96))), "5 cameras and"),
    "no depth": ("depth anything", lambda f: _resaved(f / RESULTS, depth=np.zeros((5, 64, 96))), "no depth map holds"),
    "no video": ("our vipe", lambda f: next((f / "rgb").iterdir()).unlink(), "holds no video"),
    "a broken video": ("our vipe", lambda f: next((f / "rgb").iterdir()).write_bytes(b"mp4"), "rgb"),
    "a fisheye": ("our vipe", lambda f: next((f / "intrinsics").glob("*.txt")).write_text("0: MEI\n"), "'MEI' are not"),
    "frames twice": (
        "our vipe",
        lambda f: _resaved(next((f / "pose").iterdir()), inds=np.zeros(5, int)),
        "each once",
    ),
    "a frame too late": (
        "our vipe",
        lambda f: [
            _resaved(p, inds=np.arange(5) + 99) for p in (*(f / "pose").iterdir(), *(f / "intrinsics").glob("*z"))
        ],
        "depth|has 5 frames",
    ),
    "no depth in the zip": ("our vipe", lambda f: _rezipped(f, "depth", {}), "holds no depth map"),
    "a broken depth": ("our vipe", lambda f: _rezipped(f, "depth", {"00000.exr": b"exr"}), "depth.*cannot be read"),
    "a mask less": ("our vipe", lambda f: _rezipped(f, "mask", {"00000.png": b""}), "mask.*cannot be read"),
    "not a zip": ("our vipe", lambda f: next((f / "mask").glob("*.zip")).write_bytes(b"PK"), "cannot be read"),
}


def _rezipped(folder: Path, part: str, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(next((folder / part).glob("*.zip")), "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told(kind, scene, tmp_path):
    layout, damage, message = DAMAGE[kind]
    folder = WRITERS[layout](scene, tmp_path / "theirs")
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        imported(folder, tmp_path / "store")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 and "theirs" in str(caught.value)


def test_archives_that_announce_more_than_there_is(scene, tmp_path):
    folder = write_theirs_megasam(scene, tmp_path / "theirs")
    npz_that_announces(folder / "reconstructions" / "dog" / "big.npz", "x", (200_000_000_000,))
    file = folder / "outputs_cvd" / "dog_sgd_cvd_hr.npz"
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = b"{'descr': '<f2', 'fortran_order': False, 'shape': (5, 600000, 600000), }"
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    members["depths.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="depths: it announces .* GiB"):
        read_recording(folder)


def test_names_and_kinds_that_lie(scene, tmp_path):
    """An array under the name of an archive, a folder, a pipe: none of them is the layout, none hangs."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    np.save(folder / "x.npy", np.ones(3))
    (folder / "x.npy").rename(folder / "a_sgd_cvd_hr.npz")
    (folder / "b_sgd_cvd_hr.npz").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "c_sgd_cvd_hr.npz")
    with pytest.raises(InputError, match="is no known layout"):
        read_recording(folder)


@pytest.mark.parametrize("kind", ["float", "half"])
def test_exr_of_another_writer(kind, tmp_path):
    """OpenCV compresses with ZIP; its codec needs a variable of the environment, so another process writes."""
    code = f"""
import cv2, numpy as np
values = np.random.default_rng(0).uniform(0.1, 60, (37, 53)).astype(np.float32)
np.save({str(tmp_path / "truth.npy")!r}, values)
kind = cv2.IMWRITE_EXR_TYPE_{kind.upper()}
assert cv2.imwrite({str(tmp_path / "z.exr")!r}, values, [cv2.IMWRITE_EXR_TYPE, kind])
"""
    environment = {**os.environ, "OPENCV_IO_ENABLE_OPENEXR": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this OpenCV writes no EXR")
    truth = np.load(tmp_path / "truth.npy")
    got = read_exr((tmp_path / "z.exr").read_bytes())
    np.testing.assert_allclose(got, truth, rtol=1e-7 if kind == "float" else 1e-3)


def test_exr_that_is_cut_or_flipped():
    values = np.random.default_rng(0).uniform(0.1, 60, (7, 9)).astype(np.float32)
    content, rng = exr_bytes(values), np.random.default_rng(0)
    np.testing.assert_allclose(read_exr(content), values, rtol=1e-3)
    for at in range(0, len(content), 3):
        with pytest.raises(ValueError):
            read_exr(content[:at])
    for at in rng.integers(0, len(content), 300):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        try:
            assert read_exr(bytes(flipped)).ndim == 2
        except ValueError as error:
            assert "\n" not in str(error)
