"""Where depth came from: in the dataset, in the scene folder and in the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import DEPTH_SOURCES, Scene
from easi3r_ns.core.surface import measured_only
from easi3r_ns.core.types import PixelMap
from easi3r_ns.dataset.nerfstudio import dataset_files, write_dataset
from easi3r_ns.dataset.pointcloud import static_points
from easi3r_ns.dataset.resample import labels_at_source
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.depth.prior import Predictions, fill_depth
from easi3r_ns.export.mesh.tsdf import static_depths
from easi3r_ns.report.measures import measure
from easi3r_ns.report.sections.depth import depth_section
from easi3r_ns.report.sections.run import run_section
from easi3r_ns.training.scenes import render_clip
from tests.support.clip_scene import perfect_scene


@pytest.fixture
def filled(tmp_path: Path) -> Scene:
    clip = render_clip(5, 4, 48, 64)
    scene = perfect_scene(clip, tmp_path / "store")
    kept = ~clip.moving
    kept[:, :, :20] = False
    scene = replace(scene, depth=scene.depth * kept, confidence=scene.confidence * kept)
    said = Predictions((3 / clip.depth).astype(np.float32), False, "stand-in", "Apache-2.0")
    return fill_depth(replace(scene, provenance={"stereo": "opencv"}), said, RunLog())


def test_the_dataset_says_where_each_depth_came_from(filled: Scene, tmp_path: Path) -> None:
    config = DatasetConfig(num_downscales=1)
    write_dataset(filled, out := tmp_path / "out", config, RunLog())
    meta = json.loads((out / "transforms.json").read_text())
    assert filled.depth_source is not None
    for frame, entry in enumerate(meta["frames"]):
        labels = cv2.imread(str(out / entry["depth_source_path"]), cv2.IMREAD_UNCHANGED)
        steps = cv2.imread(str(out / entry["depth_file_path"]), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8 and labels.shape == steps.shape
        np.testing.assert_array_equal(labels > 0, steps > 0)
        np.testing.assert_array_equal(labels, filled.depth_source[frame])
    assert meta["easi3r"]["depth_prior"]["model"] == "stand-in"
    written = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert written <= dataset_files(4, (64, 48), config)
    # What moves has points, and the depth is not called assumed.
    assert any("dynamic_ply_path" in entry for entry in meta["frames"])
    assert not any("dynamic_depth" in entry for entry in meta["frames"])


def test_the_scene_folder_keeps_it(filled: Scene, tmp_path: Path) -> None:
    write_dataset(filled, out := tmp_path / "out", DatasetConfig(num_downscales=0), RunLog())
    again = find_scene(out)
    assert again.depth_source is not None
    np.testing.assert_array_equal(again.depth_source, filled.depth_source)
    arrays = dict(np.load(out / "scene" / "arrays.npz"))
    for wrong in (arrays["depth_source"] + len(DEPTH_SOURCES), arrays["depth_source"].astype(float)):
        np.savez(out / "scene" / "arrays.npz", **(arrays | {"depth_source": wrong}))
        with pytest.raises(InputError, match="damaged"):
            find_scene(out)


def test_the_report_says_it_and_measures_what_was_measured(filled: Scene) -> None:
    measured = measure(filled)
    section = depth_section(filled, measured)
    assert "predicted from the picture alone (orange)" in section.lead and "Apache-2.0" in section.lead
    assert all(row[2].caption == "source" for row in section.rows) and len(section.ramps) == 1
    source = filled.depth_source
    assert source is not None and measured.measures.usable == pytest.approx((source == 1).mean(), abs=0.01)


def test_meshes_and_points_are_those_of_what_was_measured(filled: Scene) -> None:
    measured = measured_only(filled)
    for one, other in zip(static_depths(filled, 0), static_depths(measured, 0), strict=True):
        np.testing.assert_array_equal(one, other)
    points = [static_points(scene, 5000, 0)[0] for scene in (filled, measured)]
    np.testing.assert_array_equal(*points)


def test_the_report_names_the_licence_of_the_prior(filled: Scene) -> None:
    section = run_section(filled.provenance)
    assert ("its licence", "Apache-2.0") in [(fact.name, fact.value) for fact in section.weights]
    assert not section.non_commercial
    said = Predictions(filled.depth, False, "depth-anything-large", "CC BY-NC 4.0")
    assert run_section(fill_depth(filled, said, RunLog()).provenance).non_commercial


def test_labels_follow_the_crop() -> None:
    labels = np.array([[1, 2], [3, 1]], np.uint8)
    shown = labels_at_source(labels, PixelMap((8, 4), (4, 2), (1, 0, 3, 2)))
    np.testing.assert_array_equal(shown[0], [0, 0, 1, 1, 2, 2, 0, 0])
    np.testing.assert_array_equal(shown[:, 2], [1, 1, 3, 3])
