"""``easi3r-data``: what nerfstudio's parser gives, plus times that stay with their frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.plugin.dataparser import Easi3RDataParserConfig, Easi3RDataParserSpecification
from tests.support.dataset_scene import make_scene

CONFIG = DatasetConfig(num_downscales=1, max_init_points=2000)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    scene, _ = make_scene(folder / "store", (320, 213), 12)
    # An uneven clock, so that the time of a frame differs from its place.
    write_dataset(replace(scene, times=np.arange(12) ** 2 + 7.0), folder / "out", CONFIG, RunLog())
    return folder / "out"


def _parse(folder: Path, split: str = "train", **options):
    return Easi3RDataParserConfig(data=folder, **options).setup().get_dataparser_outputs(split)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "options", [{}, {"eval_mode": "interval", "eval_interval": 3}, {"eval_mode": "all"}, {"downscale_factor": 2}]
)
def test_times_stay_with_their_frames(dataset, split, options):
    parsed = _parse(dataset, split, **options)
    times = parsed.cameras.times
    assert times.shape == (len(parsed.image_filenames), 1) and times.dtype == torch.float32
    expected = [(int(path.stem[-5:]) - 1) ** 2 / 121 for path in parsed.image_filenames]
    np.testing.assert_allclose(times[:, 0], expected, atol=1e-6)


def test_times_do_not_depend_on_the_order_in_the_file(dataset, tmp_path):
    meta = json.loads((dataset / "transforms.json").read_text())
    meta["frames"] = [meta["frames"][i] for i in np.random.default_rng(0).permutation(12)]
    shuffled = dataset / "shuffled.json"
    shuffled.write_text(json.dumps(meta))
    np.testing.assert_array_equal(_parse(shuffled).cameras.times, _parse(dataset).cameras.times)


def test_everything_else_is_as_nerfstudio_has_it(dataset):
    ours = _parse(dataset)
    theirs = NerfstudioDataParserConfig(data=dataset, load_3D_points=True).setup().get_dataparser_outputs("train")
    assert torch.equal(ours.cameras.camera_to_worlds, theirs.cameras.camera_to_worlds)
    assert torch.equal(ours.metadata["points3D_xyz"], theirs.metadata["points3D_xyz"])
    assert ours.mask_filenames == theirs.mask_filenames and len(ours.mask_filenames) == len(ours.image_filenames)
    assert ours.metadata["depth_filenames"] == theirs.metadata["depth_filenames"]
    assert ours.dataparser_scale == theirs.dataparser_scale


def test_batches_of_rays_carry_time(dataset):
    cameras = _parse(dataset).cameras
    rays = cameras.generate_rays(camera_indices=3, keep_shape=True)
    assert rays.times is not None and torch.allclose(rays.times, cameras.times[3].expand_as(rays.times))


def test_a_camera_that_stands_still_is_scaled_by_the_points(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 213), 12)
    for name, wobble in (("fixed", 0.0), ("tripod", 1e-4)):
        poses = np.tile(scene.T_world_cam[:1], (12, 1, 1))
        poses[:, :3, 3] += wobble * np.random.default_rng(0).normal(size=(12, 3))
        write_dataset(replace(scene, T_world_cam=poses), tmp_path / name, CONFIG, RunLog())
        for split in ("train", "val"):
            parsed = _parse(tmp_path / name, split)
            assert torch.isfinite(parsed.cameras.camera_to_worlds).all()
            points = parsed.metadata["points3D_xyz"]
            assert np.median(np.linalg.norm(points, axis=1)) == pytest.approx(1.0, rel=0.05)


def test_missing_times_are_said_not_invented(dataset, tmp_path):
    meta = json.loads((dataset / "transforms.json").read_text())
    del meta["frames"][4]["time"]
    partial = dataset / "partial.json"
    partial.write_text(json.dumps(meta))
    assert _parse(partial).cameras.times is None


def test_nerfstudio_accepts_the_specification():
    from nerfstudio.plugins.registry_dataparser import DataParserSpecification

    assert isinstance(Easi3RDataParserSpecification, DataParserSpecification)
    assert Easi3RDataParserSpecification.config.load_3D_points
    assert Easi3RDataParserSpecification.config.setup().includes_time
