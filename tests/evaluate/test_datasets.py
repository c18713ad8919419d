"""Finding clips and their truth: layouts, keys, units, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.errors import InputError
from easi3r_ns.evaluate.datasets import find_captures, read_cameras, read_depth, read_mask
from tests.support.helpers import shared_data

EXAMPLE = Path(__file__).parents[2] / "examples" / "clip"


def images(folder: Path, names: list[str], value: int = 7) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full((4, 6), value, np.uint8)).save(folder / name)


def cameras(folder: Path, files: list[str], key: str = "c2w") -> None:
    pose = np.eye(4)
    frames = []
    for k, file in enumerate(files):
        pose[0, 3] = k
        frames.append({"file": file, key: pose.tolist()})
    lens = {"w": 6, "h": 4, "fl_x": 5.5, "fl_y": 5.4, "cx": 3, "cy": 2}
    (folder / "gt_cameras.json").write_text(json.dumps({"intrinsics": lens, "frames": frames}))


def test_a_capture_with_everything(tmp_path: Path) -> None:
    images(tmp_path / "color", ["1.png", "2.png", "10.png"])
    images(tmp_path / "masks", ["2.png", "10.png"])
    images(tmp_path / "depth", ["1.png"])
    cameras(tmp_path, ["color/10.jpg", "color/1.jpg", "color/2.jpg"])
    (capture,) = find_captures([tmp_path])
    assert capture.name == tmp_path.name and capture.data == tmp_path / "color" and not capture.is_video
    assert capture.keys(["1.png", "10.png"], [0, 2]) == ["1", "10"]
    assert capture.T_world_cam["10"][0, 3] == 0 and capture.T_world_cam["2"][0, 3] == 2
    assert set(capture.masks) == {"2", "10"} and set(capture.depth) == {"1"}
    assert (capture.intrinsics.width, capture.intrinsics.height, capture.intrinsics.fl_x) == (6, 4, 5.5)
    assert len(capture.truth_files()) == 4 and not capture.fixed_camera


def test_the_example_clip() -> None:
    """A video: truth goes by the number of the frame."""
    (capture,) = find_captures([EXAMPLE])
    assert capture.is_video and capture.name == "clip" and capture.keys(["clip.mp4"] * 2, [0, 23]) == ["0", "23"]
    assert len(capture.T_world_cam) == len(capture.masks) == len(capture.depth) == 24
    truth = json.loads((EXAMPLE / "truth.json").read_text())
    np.testing.assert_array_equal(capture.T_world_cam["5"], truth["frames"][5]["T_world_cam"])
    assert capture.masks["5"].name == Path(truth["frames"][5]["mask"]).name
    assert capture.intrinsics.fl_x == 560 and capture.intrinsics.width == 640


def test_folders_of_captures_videos_and_davis(tmp_path: Path) -> None:
    images(tmp_path / "davis" / "JPEGImages" / "480p" / "swan", ["00000.jpg", "00001.jpg"])
    images(tmp_path / "davis" / "Annotations" / "480p" / "swan", ["00000.png", "00001.png"])
    images(tmp_path / "davis" / "JPEGImages" / "480p" / "car", ["00000.jpg", "00001.jpg"])
    images(tmp_path / "walk" / "images", ["a.png", "b.png"])
    (tmp_path / "clips").mkdir()
    for name in ("dog.mp4", "cat.mov", "notes.txt", ".hidden.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"x")
    found = find_captures([tmp_path], fixed=["cat"])
    assert [c.name for c in found] == ["car", "cat", "dog", "swan", "walk"]
    assert [c.is_video for c in found] == [False, True, True, False, False]
    assert [c.fixed_camera for c in found] == [False, True, False, False, False]
    assert len(found[3].masks) == 2 and not found[0].masks
    assert [c.name for c in find_captures([tmp_path], names=["walk", "car"])] == ["walk", "car"]
    assert [c.name for c in find_captures([tmp_path / "davis"])] == ["car", "swan"]
    assert [c.name for c in find_captures([tmp_path / "walk", tmp_path / "davis"])] == ["car", "swan", "walk"]


def test_the_real_folder() -> None:
    found = {c.name: c for c in find_captures([shared_data()])}
    assert {"hololens", "rgbd5", "car-shadow", "blackswan", "drift-chicane", "dog", "blocks"} <= set(found)
    assert len(found["hololens"].T_world_cam) == len(found["hololens"].depth) == 48
    depth = read_depth(found["rgbd5"].depth["1"])
    assert depth.shape == (480, 640) and 0.3 < np.median(depth[depth > 0]) < 6
    mask = read_mask(found["car-shadow"].masks["00000"])
    assert mask.shape == (480, 854) and 0.02 < mask.mean() < 0.4


def test_masks_and_depth_are_read_as_they_are_meant(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2, 0]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 0, 0, 0, 200, 0, 0])
    palette.save(tmp_path / "objects.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "objects.png"), [[False, True, True, False]])
    Image.fromarray(np.array([[[0, 0, 0], [0, 9, 0]]], np.uint8)).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "colour.png"), [[False, True]])
    Image.fromarray(np.array([[0, 1500, 65535]], np.uint16)).save(tmp_path / "depth.png")
    np.testing.assert_allclose(read_depth(tmp_path / "depth.png"), [[0, 1.5, 65.535]], rtol=1e-6)
    with pytest.raises(InputError, match="one-channel"):
        read_depth(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read"):
        read_mask(tmp_path / "broken.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a camera file"),
        ("[]", "not a camera file"),
        ('{"frames": [{"file": "a.png"}]}', "not a camera file"),
        ('{"frames": [{"file": "a.png", "c2w": [[1, 0], [0, 1]]}]}', "c2w of a"),
        (json.dumps({"frames": [{"file": "a.png", "c2w": (2 * np.eye(4)).tolist()}]}), "c2w of a"),
        (json.dumps({"frames": [{"file": f"{d}/a.png", "c2w": np.eye(4).tolist()} for d in "xy"]}), "same file name"),
    ],
)
def test_bad_camera_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "gt_cameras.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_cameras(tmp_path / "gt_cameras.json")


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        find_captures([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no video"):
        find_captures([tmp_path])
    images(tmp_path / "walk" / "images", ["a.png", "b.png"])
    with pytest.raises(InputError, match="no capture run .*: there are walk"):
        find_captures([tmp_path], names=["run"])
    with pytest.raises(InputError, match="no capture run"):
        find_captures([tmp_path], fixed=["run"])
    images(tmp_path / "walk" / "masks", ["frame_a.png"])
    with pytest.raises(InputError, match="names none of the images"):
        find_captures([tmp_path])
    images(tmp_path / "walk" / "masks", ["a.png"])
    (tmp_path / "clips").mkdir()
    for name in ("walk.mp4", "other.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"x")
    with pytest.raises(InputError, match="two captures are called walk"):
        find_captures([tmp_path])
