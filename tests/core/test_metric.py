"""Scenes in metres: rendered rooms of a known size, in an arbitrary unit, measured in a picture or from the floor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.metric import metres_by_height, metres_by_reference, metric_scene, scale_in_words
from easi3r_ns.core.reference import MetricReference
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene, rescale_scene
from easi3r_ns.core.types import on_side
from easi3r_ns.core.upright import WORLD_UP, Up, level_scene
from easi3r_ns.dataset.listing import positions_by_stem
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.training.scenes import Clip
from tests.core.test_upright import as_found, clip
from tests.support.clip_scene import perfect_scene

UNIT = 2.7
"""Scene units of a metre."""


@pytest.fixture
def room(tmp_path: Path) -> tuple[Scene, Clip]:
    truth = clip(9)
    return rescale_scene(as_found(perfect_scene(truth, tmp_path / "store", noise=0.01)), UNIT), truth


def measured(truth: Clip, frame: int, rng: np.random.Generator) -> str:
    """A reference between two static places of a frame that are far apart in the picture, by the truth."""
    inverse = np.pad(1 / truth.depth[frame].astype(float), 1, mode="edge")
    bend = np.abs(cv2.Laplacian(inverse, cv2.CV_64F))[1:-1, 1:-1] * truth.depth[frame]
    good = ~binary_dilation((bend > 0.03) | truth.moving[frame], iterations=3)
    good[[0, 1, 2, -3, -2, -1]] = good[:, [0, 1, 2, -3, -2, -1]] = False
    places = np.argwhere(good)
    for _ in range(1000):
        rows, columns = places[rng.integers(len(places), size=2)].T
        if np.hypot(*np.diff(columns), *np.diff(rows)) > 25:
            break
    a, b = truth.points(frame)[rows, columns]
    places = " ".join(f"{column + 0.5:g} {row + 0.5:g}" for row, column in zip(rows, columns))
    return f"{frame + 1} {places} {np.linalg.norm(b - a):.6f}"


def told(reference: str, scene: Scene) -> str:
    with pytest.raises(InputError) as error:
        metric_scene(scene, DatasetConfig(metric_reference=reference), positions_by_stem(scene), RunLog())
    return str(error.value)


def test_a_measured_distance_gives_the_scale(room: tuple[Scene, Clip]) -> None:
    scene, truth = room
    rng, errors, sigmas = np.random.default_rng(0), [], []
    for frame in range(8):
        reference = MetricReference.parse(measured(truth, frame, rng))
        found = metres_by_reference(scene, reference, positions_by_stem(scene))
        errors.append(abs(found.factor * UNIT - 1))
        sigmas.append(found.sigma)
        assert found.facts["views"] > 0
    assert max(errors) < 0.02
    # The pictures are 64 pixels wide, and sigma is for somebody who points one pixel beside the place.
    assert max(np.array(errors) / sigmas) < 3 and max(sigmas) < 0.1


def test_all_lengths_are_in_metres_and_nerfstudio_keeps_them(room: tuple[Scene, Clip], tmp_path: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    scene, truth = room
    config = DatasetConfig(metric_reference=measured(truth, 2, np.random.default_rng(3)), num_downscales=0)
    level = level_scene(scene, "auto", RunLog())
    done = metric_scene(level, config, positions_by_stem(level), log := RunLog())
    facts = done.provenance["scale"]
    assert facts["unit"] == "metre" and facts["source"] == "reference" and not log.warnings
    assert facts["factor"] * UNIT == pytest.approx(1, rel=0.02) and scale_in_words(done).startswith("in metres")
    write_dataset(done, out := tmp_path / "out", config, RunLog())
    assert json.loads((out / "transforms.json").read_text())["easi3r"]["scale"]["unit"] == "metre"
    steps = cv2.imread(str(out / "depths" / "frame_00003.png"), cv2.IMREAD_UNCHANGED) / 1000
    assert np.median(steps[steps > 0] / truth.depth[2][steps > 0]) == pytest.approx(1, abs=0.02)
    parsed = NerfstudioDataParserConfig(data=out, downscale_factor=1).setup().get_dataparser_outputs("train")
    first, last = (parsed.cameras.camera_to_worlds[k].numpy()[:, 3] for k in (0, -1))
    rows = [int(parsed.image_filenames[k].stem[-5:]) - 1 for k in (0, -1)]
    true = np.linalg.norm(np.subtract(*truth.T_world_cam[rows, :3, 3]))
    assert np.linalg.norm(first - last) / parsed.dataparser_scale == pytest.approx(true, rel=0.02)


def test_camera_height_gives_the_scale(room: tuple[Scene, Clip]) -> None:
    scene, truth = room
    height = float(np.median(truth.T_world_cam[:, 2, 3]))
    found = metres_by_height(scene, height)
    assert found.factor * UNIT == pytest.approx(1, rel=0.02) and abs(found.factor * UNIT - 1) < 3 * found.sigma < 0.3
    # With --up none the plane is found all the same.
    done = metric_scene(level_scene(scene, "none", RunLog()), DatasetConfig(camera_height=height), {}, RunLog())
    assert done.provenance["scale"]["source"] == "camera-height"


def test_a_plane_that_may_be_tilted_makes_the_height_uncertain(
    room: tuple[Scene, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    T = np.tile(np.eye(4), (8, 1, 1))
    scene = replace(room[0], T_world_cam=T)
    monkeypatch.setattr("easi3r_ns.core.metric.up_by_plane", lambda _: Up(WORLD_UP, "plane", 5.0, 0.3, 4.0))
    found = metres_by_height(scene, 2.0)
    assert found.factor == pytest.approx(0.5) and found.sigma == pytest.approx(np.tan(np.radians(5)))


def test_without_a_floor_the_height_gives_none(room: tuple[Scene, Clip]) -> None:
    scene, _ = room
    unknown = np.zeros_like(scene.depth)
    with pytest.raises(InputError, match="no ground plane is seen"):
        metres_by_height(replace(scene, depth=unknown, confidence=unknown), 1.6)


def test_pictures_on_their_side_are_measured_upright(room: tuple[Scene, Clip]) -> None:
    """A clip of portrait pictures that lies on its side gives the same, by pixels of the upright ones."""
    scene, truth = room
    text = measured(truth, 1, np.random.default_rng(1))
    plain = metres_by_reference(scene, MetricReference.parse(text), positions_by_stem(scene))
    number, x1, y1, x2, y2, metres = (float(word) for word in text.split())
    height, width = scene.depth.shape[1:]
    # The scene's pictures are taken to be on_side() of upright ones, which have these sizes and pixels.
    upright = np.rot90(scene.depth[1], -1)
    assert on_side(upright).shape == scene.depth[1].shape
    places = [(height - y, x) for x, y in ((x1, y1), (x2, y2))]
    other = MetricReference(str(int(number)), (places[0], places[1]), metres)
    turned = metres_by_reference(replace(scene, turned=np.ones(8, bool)), other, positions_by_stem(scene))
    assert turned.factor == pytest.approx(plain.factor)


def test_places_that_tell_nothing(room: tuple[Scene, Clip]) -> None:
    scene, _ = room
    masks = np.zeros_like(scene.dynamic.masks)
    masks[4, 30:40, 10:30] = True
    moving = replace(scene, dynamic=replace(scene.dynamic, masks=masks))
    assert "(20, 34) of frame_00005 lies on what moves" in told("5 40 10 19.8 34 1", moving)
    depth = scene.depth.copy()
    depth[0, :, :20] = 0
    hole = replace(scene, depth=depth)
    assert "depth at (4, 20) of frame_00001 is unknown: it is known at (2" in told("1 4 20 40 20 1", hole)
    depth[0] = 0
    assert "no depth" in told("1 4 20 40 20 1", replace(scene, depth=depth))
    assert "outside the picture, which has 64x48 pixels" in told("1 4 20 400 20 1", scene)
    for name in ("9", "0", "frame_00009", "clip.mp4", "x y", "1" * 5000):
        assert "no picture" in told(f"{name} 4 20 40 20 1", scene)


def test_pictures_have_a_number_and_names() -> None:
    stems = ["frame_00001", "frame_00002", "frame_00003"]
    for frame in ("2", "02", "frame_00002", "frame_00002.png", "frame_00002.jpg", "a photo.jpeg"):
        reference = MetricReference.parse(f"{frame} 1 2 30 4 1.5")
        assert reference.position_in(stems, ("x.png", "a photo.jpeg", "7")) == 1
    assert (
        MetricReference.parse("2 1 2 30 4 1").position_in(["clip_1_frame_00001", "clip_2_frame_00002"], ("", "")) == 1
    )


def test_before_the_work_a_number_may_fit_several_pictures() -> None:
    reference, names = MetricReference.parse("7 1 2 30 4 1"), [""] * 2
    several = ["clip_1_frame_00007", "clip_2_frame_00007"]
    assert reference.position_in(several, names, guessed=True) == 0
    with pytest.raises(InputError, match=r"the number of one in the dataset \(1 for clip_1_frame_00007\), or its name"):
        reference.position_in(several, names)
    with pytest.raises(InputError, match="give its name; there are frame_00001_view1"):
        reference.position_in(["frame_00001_view1", "frame_00007_view1"], names)


def test_a_picture_is_known_by_its_name_beside_some_without_depth() -> None:
    stems = [f"frame_{k:05d}" for k in range(1, 5)]
    assert MetricReference.parse("b.jpg 1 2 30 4 1").position_in(stems, ["a.jpg", "", "b.jpg", ""]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give"),
        ("7 1 2 3 4", "give"),
        ("7 1 2 3 4 five", "give"),
        ("7 1 2 3 nan 1", "give"),
        ("7 1 2 1 2.5 1", "two places"),
        ("7 1 2 30 4 0", "0 m"),
        ("7 1 2 30 4 -1", "-1 m"),
        ("7 1 2 30 4 1e300", "m; give"),
    ],
)
def test_options_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        DatasetConfig(metric_reference=text)


def test_only_one_scale() -> None:
    with pytest.raises(InputError, match="one of them"):
        DatasetConfig(metric_reference="1 1 2 30 4 1", camera_height=1.6)


def test_depth_maps_that_millimetres_do_not_suit(room: tuple[Scene, Clip]) -> None:
    scene, truth = room
    x1, y1, x2, y2, metres = (float(word) for word in measured(truth, 2, np.random.default_rng(3)).split()[1:])
    for factor, said in ((30.0, "leave them out"), (0.01, "coarse")):
        config = DatasetConfig(metric_reference=f"3 {x1} {y1} {x2} {y2} {metres * factor}")
        metric_scene(scene, config, positions_by_stem(scene), log := RunLog())
        assert len(log.warnings) == 1 and said in log.warnings[0]
