"""Folders with a COLMAP model: cameras, points, pictures and lenses come back; damage is told."""

from __future__ import annotations

import json
import os
import shlex
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import distort, network_to_source, pixel_grid, project, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.importers.colmap_model import SUPPORTED, read_model
from easi3r_ns.importers.folder import read_recording
from easi3r_ns.importers.recording import ImportOptions, to_scene
from easi3r_ns.pipelines import imported
from easi3r_ns.pipelines.footage import prepare
from easi3r_ns.pipelines.imported import ImportConfig
from easi3r_ns.report.command import command_text
from easi3r_ns.training.scenes import Clip
from tests.support.clip_scene import sharp_clip
from tests.support.colmap_folder import PARAMS, write_colmap_folder

FRAMES, HEIGHT, WIDTH = 6, 96, 128


@pytest.fixture(scope="module")
def clip() -> Clip:
    return sharp_clip(3, FRAMES, HEIGHT, WIDTH)


def scene_of(folder: Path, tmp_path: Path, options: ImportOptions = ImportOptions()) -> Scene:
    recording = read_recording(folder, options)
    return to_scene(*prepare(recording, folder, tmp_path / "store", RunLog()), folder, options)


def assert_cameras(clip: Clip, scene: Scene, frames: list[int], tolerance: float = 1e-6) -> None:
    """Cameras are those of the clip in the world of the first one, and points lie where they show them."""
    truth = np.linalg.inv(clip.T_world_cam[frames[0]]) @ clip.T_world_cam[frames]
    np.testing.assert_allclose(scene.T_world_cam[:, :3, :3], truth[:, :3, :3], atol=tolerance)
    ends = [np.linalg.norm(T[-1, :3, 3]) for T in (scene.T_world_cam, truth)]
    np.testing.assert_allclose(scene.T_world_cam[:, :3, 3], truth[:, :3, 3] * ends[0] / ends[1], atol=tolerance)
    sparse = scene.sparse
    for frame in range(len(scene)):
        own = sparse.frame_index == frame
        local = transform(np.linalg.inv(scene.T_world_cam[frame]), sparse.points[sparse.point_index[own]])
        seen = project(local, *scene.focals_xy[frame], *scene.principal_point)
        np.testing.assert_allclose(network_to_source(seen, scene.pixel_map), sparse.pixels[own], atol=1e-3)
        assert own.sum() > 50


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("model", PARAMS)
def test_cameras_and_points(model, binary, clip, tmp_path):
    folder = write_colmap_folder(clip, tmp_path / "theirs", model=model, binary=binary)
    scene = scene_of(folder, tmp_path)
    assert_cameras(clip, scene, list(range(FRAMES)))
    assert scene.pixel_map.source_wh == (WIDTH, HEIGHT) and scene.pose_sources == ("colmap",) * FRAMES
    assert [cv2.imread(str(path)).tolist() for path in scene.source_paths] == [
        image[..., ::-1].tolist() for image in clip.images
    ]
    focal = scene.focals / scene.pixel_map.scale_xy[0]
    np.testing.assert_allclose(focal, clip.focal, rtol=1e-9)
    centre = network_to_source(scene.principal_point, scene.pixel_map)
    np.testing.assert_allclose(centre, np.asarray(clip.principal_point) + 0.5, atol=1e-9)
    assert set(PARAMS) == {name for name in SUPPORTED if "FISHEYE" not in name}


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0", "."])
def test_places_of_the_model(place, clip, tmp_path):
    folder = write_colmap_folder(clip, tmp_path / "theirs", place=place)
    assert len(read_recording(folder)) == FRAMES


def test_names_in_folders_and_their_order(clip, tmp_path):
    names = [f"left side/b{k}/img {11 - k}.png" for k in range(FRAMES)]
    scene = scene_of(write_colmap_folder(clip, tmp_path / "theirs", names=names), tmp_path)
    assert scene.names == tuple(names)
    names = [f"img_{9 + k}.png" for k in range(FRAMES)]  # 10 comes after 9
    scene = scene_of(write_colmap_folder(clip, tmp_path / "others", names=names), tmp_path)
    assert scene.names == tuple(names)
    assert_cameras(clip, scene, list(range(FRAMES)))


def test_pictures_elsewhere(clip, tmp_path):
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    (folder / "images").rename(folder / "frames of mine")
    assert len(read_recording(folder)) == FRAMES
    (folder / "frames of mine").rename(tmp_path / "far")
    with pytest.raises(InputError, match="6 of the 6 pictures of the model are not there.*--images"):
        read_recording(folder)
    assert len(read_recording(folder, ImportOptions(images=tmp_path / "far"))) == FRAMES


def test_partly_registered(clip, tmp_path):
    """Times keep the gaps, the pictures without a camera are counted."""
    kept = [0, 1, 3, 5]
    folder = write_colmap_folder(clip, tmp_path / "theirs", registered=kept)
    recording = read_recording(folder)
    assert recording.remarks == ("2 of 6 pictures have no camera and are left out",)
    scene = scene_of(folder, tmp_path, ImportOptions(fps=10))
    assert scene.indices.tolist() == kept and scene.times.tolist() == [0.0, 0.1, 0.3, 0.5]
    assert_cameras(clip, scene, kept)


def test_the_largest_of_several_models(clip, tmp_path):
    folder = write_colmap_folder(clip, tmp_path / "theirs", registered=[0, 1], place="sparse/0")
    write_colmap_folder(clip, folder, registered=[1, 2, 3, 4], place="sparse/1")
    recording = read_recording(folder)
    assert len(recording) == 4 and "sparse/1" in recording.why
    assert "of 2 models the largest is taken; left out: sparse/0 with 2 pictures" in recording.remarks


def test_pictures_that_were_made_smaller(clip, tmp_path):
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    for path in (folder / "images").iterdir():
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (WIDTH // 2, HEIGHT // 2)))
    scene = scene_of(folder, tmp_path)
    assert scene.pixel_map.source_wh == (WIDTH // 2, HEIGHT // 2)
    np.testing.assert_allclose(scene.focals / scene.pixel_map.scale_xy[0], clip.focal / 2)
    assert_cameras(clip, scene, list(range(FRAMES)))


def test_the_orientation_of_photos_is_not_applied_twice(clip, tmp_path):
    """COLMAP looks at the pixels as they lie in the file, whatever EXIF says."""
    from PIL import Image

    names = [f"shot_{k}.jpg" for k in range(FRAMES)]
    folder = write_colmap_folder(clip, tmp_path / "theirs", names=names)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image in zip(names, clip.images):
        Image.fromarray(image).save(folder / "images" / name, quality=98, exif=exif)
    scene = scene_of(folder, tmp_path)
    assert scene.pixel_map.source_wh == (WIDTH, HEIGHT)
    first = cv2.imread(str(scene.source_paths[0]))[..., ::-1].astype(int)
    assert np.abs(first - clip.images[0]).mean() < 4


def distorted(image: np.ndarray, focal: float, centre: np.ndarray, k: tuple) -> np.ndarray:
    """What a lens with the distortion ``k`` shows of what one without shows."""
    height, width = image.shape[:2]
    # The inverse of the distortion by a table: radii only.
    radius = np.linspace(0, 1.2, 4000)
    shown = distort(np.stack([radius, 0 * radius], axis=-1), k)[:, 0]
    xy = (pixel_grid(height, width) - centre) / focal
    r = np.linalg.norm(xy, axis=-1)
    ideal = xy * (np.interp(r, shown, radius) / np.maximum(r, 1e-9))[..., None]
    at = (ideal * focal + centre).astype(np.float32)
    return cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def test_a_camera_for_every_picture(clip, tmp_path):
    """Different focal lengths, distortions and sizes: resampled to one lens, in which points lie where they belong."""
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    model = folder / "sparse" / "0"
    lines, cameras, rng = (model / "images.txt").read_text().splitlines(), [], np.random.default_rng(0)
    centre = np.asarray(clip.principal_point)
    for frame in range(FRAMES):
        k1, half = 0.06 * rng.standard_normal(), 2 if frame == 2 else 1
        image = distorted(clip.images[frame], clip.focal, centre, (k1, 0, 0, 0))
        image = cv2.resize(image, (WIDTH // half, HEIGHT // half), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "images" / f"shot_{frame}.png"), image[..., ::-1])
        cx, cy = (centre + 0.5) / half
        cameras.append(f"{frame + 1} SIMPLE_RADIAL {WIDTH // half} {HEIGHT // half} {clip.focal / half} {cx} {cy} {k1}")
        words, row = lines[1 + 2 * frame].split(), lines[2 + 2 * frame].split()
        words[8] = str(frame + 1)
        xy = np.array(row, dtype=float).reshape(-1, 3)
        xy[:, :2] = distort((xy[:, :2] - 0.5 - centre) / clip.focal, (k1, 0, 0, 0)) * clip.focal + centre + 0.5
        xy[:, :2] /= half
        lines[1 + 2 * frame] = " ".join(words)
        lines[2 + 2 * frame] = " ".join(f"{u} {v} {int(point)}" for u, v, point in xy)
    (model / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    scene = scene_of(folder, tmp_path)
    assert scene.distortion == (0, 0, 0, 0) and scene.pixel_map.source_wh == (WIDTH, HEIGHT)
    assert_cameras(clip, scene, list(range(FRAMES)))
    # The pictures are those of the clip, enlarged about the centre by as much as the focal length says.
    for frame in (0, 3, 5):
        zoom = float(scene.focals[frame] / scene.pixel_map.scale_xy[0] / clip.focal)
        assert 0.999 <= zoom < 1.2
        at = ((pixel_grid(HEIGHT, WIDTH) - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]) / zoom + centre).astype(np.float32)
        expected = cv2.remap(clip.images[frame], at[..., 0], at[..., 1], cv2.INTER_CUBIC).astype(float)
        got = cv2.imread(str(scene.source_paths[frame]))[..., ::-1].astype(float)
        inner = (slice(8, -8), slice(8, -8))
        assert np.abs(got - expected)[inner].mean() < 6
        shifted = np.abs(np.roll(got, 1, axis=1) - expected)[inner].mean()
        assert shifted > 1.15 * np.abs(got - expected)[inner].mean()


def test_portrait_beside_landscape_is_told(clip, tmp_path):
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    model = folder / "sparse" / "0"
    cameras = (model / "cameras.txt").read_text()
    (model / "cameras.txt").write_text(cameras + f"8 PINHOLE {HEIGHT} {WIDTH} 100 100 48 64\n")
    lines = (model / "images.txt").read_text().splitlines()
    lines[1] = lines[1].replace(" 7 shot_0", " 8 shot_0")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    path = folder / "images" / "shot_0.png"
    cv2.imwrite(str(path), cv2.rotate(cv2.imread(str(path)), cv2.ROTATE_90_CLOCKWISE))
    with pytest.raises(InputError, match="5 pictures are landscape, 1 portrait"):
        scene_of(folder, tmp_path)


@pytest.mark.slow
def test_a_full_dataset_on_top_of_their_cameras(tmp_path, capsys):
    """Masks, depth, report and exports; what moves in the clip is found, the depth is the true one."""
    clip = sharp_clip(11, 8, 192, 256)
    folder, out = write_colmap_folder(clip, tmp_path / "theirs", binary=True), tmp_path / "out"
    cli.main(["import", str(folder), "--output-dir", str(out), "--num-downscales", "0"])
    text = capsys.readouterr().out
    assert "8 of 8" in text and "those of COLMAP" in text and "verdict" in text and (out / "report.html").is_file()
    scene = find_scene(out)
    assert scene.provenance["imported"] == "COLMAP" and scene.dynamic.source in ("geometry", "scene")
    truth = np.stack([cv2.resize(m.astype(np.uint8), scene.depth.shape[:0:-1]) for m in clip.moving]).astype(bool)
    found = scene.dynamic.masks
    assert (truth & found).sum() / (truth | found).sum() > 0.4
    depth = np.stack([cv2.resize(d, scene.depth.shape[:0:-1], interpolation=cv2.INTER_NEAREST) for d in clip.depth])
    known = (scene.depth > 0) & ~truth
    ratio = scene.depth[known] / depth[known]
    assert known.mean() > 0.2 and np.median(np.abs(ratio / np.median(ratio) - 1)) < 0.02
    meta = json.loads((out / "transforms.json").read_text())
    assert len(meta["frames"]) == 8 and all("depth_file_path" in frame for frame in meta["frames"])
    cli.main(["export", str(out), "--format", "colmap", "tum"])
    assert (out / "export" / "trajectory_tum.txt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("words", "told"), [([], True), (["--no-masks"], False)])
def test_masks_beside_a_model_are_not_read_and_that_is_said(words, told, clip, tmp_path, capsys):
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    (folder / "masks").mkdir()
    asked = ["--depth", "none", "--no-report", "--num-downscales", "0", *words]
    cli.main(["import", str(folder), "--output-dir", str(tmp_path / "out"), *asked])
    said = " ".join(capsys.readouterr().err.split())
    assert (f"--masks {folder / 'masks'} takes these masks" in said) is told


def test_masks_of_the_user_on_top_of_their_cameras(clip, tmp_path):
    """White stands still, as COLMAP has it; the names are those of the pictures."""
    folder, masks, out = write_colmap_folder(clip, tmp_path / "theirs"), tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for frame, moving in enumerate(clip.moving):
        cv2.imwrite(str(masks / f"shot_{frame}.png"), np.where(moving, 0, 255).astype(np.uint8))
    asked = ["--masks", str(masks), "--masks-polarity", "black-moves", "--depth", "none", "--no-report"]
    cli.main(["import", str(folder), "--output-dir", str(out), "--num-downscales", "0", *asked])
    scene = find_scene(out)
    truth = np.stack([cv2.resize(m.astype(np.uint8), scene.depth.shape[:0:-1]) for m in clip.moving]).astype(bool)
    assert scene.dynamic.source == "user"
    both = (truth & scene.dynamic.masks).sum() / (truth | scene.dynamic.masks).sum()
    assert both > 0.9
    chosen = scene.provenance["config"]["easi3r"]
    assert chosen["masks_polarity"] == "black-moves"
    text = command_text(scene.provenance)
    assert text.startswith(f"easi3r import {folder} --output-dir OUT --masks {masks} --masks-polarity black-moves")
    made = cli.main(["import", str(folder), "--output-dir", str(tmp_path / "again"), *shlex.split(text)[5:]])
    assert made is None and len(find_scene(tmp_path / "again")) == FRAMES


def test_a_reference_that_names_no_picture_is_refused_before_the_work(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(imported, "_completed", lambda *_: pytest.fail("it takes long"))
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    config = ImportConfig(dataset=DatasetConfig(metric_reference="77 5 5 90 50 1.0"))
    with pytest.raises(InputError, match="77"):
        imported.import_dataset(folder, tmp_path / "out", config, overwrite=False, log=RunLog())


def test_without_points_there_is_no_depth_and_that_is_said(clip, tmp_path, capsys):
    folder, out = write_colmap_folder(clip, tmp_path / "theirs", points=False), tmp_path / "out"
    cli.main(["import", str(folder), "--output-dir", str(out), "--num-downscales", "0", "--no-masks", "--no-report"])
    text = "".join(capsys.readouterr())
    assert "no points: no depth can be measured" in " ".join(text.split()) and "no depth maps, no mesh" in text
    assert not find_scene(out).has_depth and not find_scene(out).dynamic.masks.any()


DAMAGE = {
    "a prism": (lambda m: _edit(m / "cameras.txt", "PINHOLE", "THIN_PRISM_FISHEYE"), "FISHEYE is.*image_undistorter"),
    "half a fisheye": (lambda m: _edit(m / "cameras.txt", " PINHOLE", " OPENCV_FISHEYE"), "has 8 parameters, not 4"),
    "a fisheye beside a pinhole": (lambda m: _half_fisheye(m), "some pictures were taken through a fisheye lens"),
    "an unknown lens": (lambda m: _edit(m / "cameras.txt", "PINHOLE", "CATADIOPTRIC"), "CATADIOPTRIC is not read"),
    "a parameter less": (lambda m: _edit(m / "cameras.txt", " PINHOLE", " OPENCV"), "OPENCV has 8 parameters, not 4"),
    "no cameras": (lambda m: (m / "cameras.txt").write_text(""), "taken by camera 7, which is not there"),
    "no images": (lambda m: (m / "images.txt").write_text("#\n"), "registers no picture"),
    "an absolute name": (lambda m: _edit(m / "images.txt", "shot_0", "/etc/shot_0"), "leads out of its folder"),
    "a name that climbs": (lambda m: _edit(m / "images.txt", "shot_0", "../../x/shot_0"), "leads out of its folder"),
    "a name that is not there": (lambda m: _edit(m / "images.txt", "shot_0", "other"), "1 of the 6 pictures"),
    "a long quaternion": (lambda m: _lengthened(m / "images.txt"), "the quaternion of .* has length"),
    "words": (lambda m: _edit(m / "images.txt", "10 ", "10 x"), "images.txt cannot be read"),
    "half an observation": (lambda m: _cut(m / "images.txt"), "images.txt cannot be read: .* not triples"),
    "a colour": (lambda m: _recolour(m / "points3D.txt"), "points3D.txt cannot be read: a colour"),
    "not text": (lambda m: (m / "images.txt").write_bytes(b"\xff\xfe\x00"), "images.txt cannot be read"),
}


def _edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


def _half_fisheye(model: Path) -> None:
    with (model / "cameras.txt").open("a") as file:
        file.write(f"8 OPENCV_FISHEYE {WIDTH} {HEIGHT} 90 90 64 48 0.01 0 0 0\n")
    lines = (model / "images.txt").read_text().splitlines()
    lines[1] = lines[1].replace(" 7 shot", " 8 shot")
    (model / "images.txt").write_text("\n".join(lines))


def _lengthened(path: Path) -> None:
    lines = path.read_text().splitlines()
    words = lines[1].split()
    path.write_text("\n".join([lines[0], " ".join([words[0], "3.5", *words[2:]]), *lines[2:], ""]))


def _cut(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rsplit(" ", 1)[0]
    path.write_text("\n".join(lines) + "\n")


def _recolour(path: Path) -> None:
    lines = path.read_text().splitlines()
    words = lines[1].split()
    path.write_text("\n".join([lines[0], " ".join([*words[:4], "256", *words[5:]]), *lines[2:], ""]))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told(kind, clip, tmp_path):
    damage, message = DAMAGE[kind]
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    damage(folder / "sparse" / "0")
    with pytest.raises(InputError, match=message) as caught:
        read_recording(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_binary_files_that_are_cut_or_flipped(clip, tmp_path):
    """One line, or a model that is complete; counts are compared with the file before anything is allocated."""
    folder = write_colmap_folder(clip, tmp_path / "theirs", binary=True)
    model, rng = folder / "sparse" / "0", np.random.default_rng(0)
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        content = (model / name).read_bytes()
        changed = [content[:k] for k in rng.integers(0, len(content), 12)]
        changed += [struct.pack("<Q", 1 << 62) + content[8:], content + b"x", b""]
        for at in rng.integers(0, len(content), 25):
            flipped = bytearray(content)
            flipped[at] ^= 0xFF
            changed.append(bytes(flipped))
        for place, damaged in enumerate(changed):
            (model / name).write_bytes(damaged)
            try:
                read_model(model)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 500
            else:
                assert place >= 15, "what is cut is not read"
        (model / name).write_bytes(content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pipes_do_not_hang(clip, tmp_path):
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    (folder / "images" / "shot_3.png").unlink()
    os.mkfifo(folder / "images" / "shot_3.png")
    with pytest.raises(InputError, match="1 of the 6 pictures"):
        read_recording(folder)
    (folder / "sparse" / "0" / "points3D.txt").unlink()
    os.mkfifo(folder / "sparse" / "0" / "points3D.txt")
    with pytest.raises(InputError):
        read_recording(folder)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_names_that_are_not_utf8(clip, tmp_path):
    name = os.fsdecode(b"shot_\xff.png")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    folder = tmp_path / os.fsdecode(b"th\xe9irs")
    write_colmap_folder(clip, tmp_path / "theirs", binary=True)
    (tmp_path / "theirs").rename(folder)
    (folder / "images" / "shot_0.png").rename(folder / "images" / os.fsdecode(b"shot_\xff.png"))
    images = folder / "sparse" / "0" / "images.bin"
    images.write_bytes(images.read_bytes().replace(b"shot_0.png\0", b"shot_\xff.png\0"))
    scene = scene_of(folder, tmp_path)
    assert "shot_\ufffd.png" in scene.names
    json.dumps([*scene.names, scene.provenance["source"]]).encode("utf-8")
