"""splatfacto-easi3r from the dataset to the optimiser: what batches hold, one option for the depths, a training."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import open3d
import pytest
import torch
import yaml
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.plugins.types import MethodSpecification
from PIL import Image

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.plugin.dataparser import Easi3RDataParserConfig
from easi3r_ns.plugin.splatfacto import specification
from easi3r_ns.plugin.splatfacto.data import DepthMapDataset, Easi3RDatamanagerConfig
from easi3r_ns.plugin.splatfacto.pipeline import Easi3RPipeline, Easi3RPipelineConfig
from tests.support.dataset_scene import make_scene
from tests.support.splat_standin import without_gpu

ROOT = Path(__file__).parents[2]
FRAMES = 10


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    scene, _ = make_scene(folder / "store", (320, 213), FRAMES)
    # An uneven clock, so that the time of a frame differs from its place.
    config = DatasetConfig(num_downscales=2, max_init_points=600)
    write_dataset(replace(scene, times=np.arange(FRAMES) ** 2 + 7.0), folder / "out", config, RunLog())
    return folder / "out"


def _datamanager(data: Path, load_depths: bool = False, **options):
    parser = Easi3RDataParserConfig(data=data, downscale_factor=4, **options)
    config = Easi3RDatamanagerConfig(dataparser=parser, load_depths=load_depths, cache_images_type="uint8")
    return config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)


def _pipeline(data: Path, **model_options) -> Easi3RPipeline:
    config = specification.SplatfactoEasi3RSpecification.config.pipeline
    parser = replace(config.datamanager.dataparser, data=data, downscale_factor=4)
    model = replace(config.model, sh_degree=0, use_absgrad=False, num_downscales=0, **model_options)
    with without_gpu():
        return replace(config, datamanager=replace(config.datamanager, dataparser=parser), model=model).setup(
            device="cpu"
        )


def _frame(path: Path) -> int:
    return int(path.stem[-5:]) - 1


def test_the_specification_is_splatfacto_with_ours_in_it():
    found = specification.SplatfactoEasi3RSpecification
    assert isinstance(found, MethodSpecification) and found is specification.SplatfactoEasi3RSpecification
    # Slow to import, and slower the more modules are loaded: not while tests are collected.
    from nerfstudio.configs.method_configs import method_configs

    ours, theirs = found.config, method_configs["splatfacto"]
    assert ours.method_name == "splatfacto-easi3r" and "splatfacto" in found.description
    pairs = [
        (ours, theirs, {"method_name", "pipeline"}),
        (ours.pipeline, theirs.pipeline, {"_target", "datamanager", "model"}),
        (ours.pipeline.model, theirs.pipeline.model, {"_target"}),
        (ours.pipeline.datamanager, theirs.pipeline.datamanager, {"_target", "dataparser"}),
    ]
    for mine, base, differing in pairs:
        for field in fields(base):
            same = getattr(mine, field.name) == getattr(base, field.name)
            assert same == (field.name not in differing), field.name
    assert isinstance(ours.pipeline.datamanager.dataparser, Easi3RDataParserConfig)
    assert ours.pipeline.datamanager.dataparser.load_3D_points and not ours.pipeline.model.random_init
    assert ours.pipeline.model.depth_weight == 0
    # Nobody's settings are shared: options of one run must not leak into nerfstudio's table.
    assert ours.optimizers is not theirs.optimizers
    with pytest.raises(AttributeError, match="no attribute 'Splatfacto'"):
        specification.Splatfacto  # noqa: B018


def test_the_config_file_of_a_training_loads_back():
    """ns-viewer, ns-eval and ns-export read config.yml."""
    config = specification.SplatfactoEasi3RSpecification.config
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


def test_batches_hold_image_mask_and_time(dataset):
    manager = _datamanager(dataset, eval_mode="interval", eval_interval=4)
    assert manager.includes_time and type(manager.train_dataset) is InputDataset
    names = manager.train_dataset.image_filenames
    seen = set()
    for step in range(len(names)):
        camera, batch = manager.next_train(step)
        frame = _frame(names[batch["image_idx"]])
        seen.add(frame)
        assert camera.times.shape == (1, 1)
        assert camera.times.item() == pytest.approx(frame**2 / (FRAMES - 1) ** 2, abs=1e-6)
        mask = np.asarray(Image.open(dataset / "masks_4" / names[batch["image_idx"]].name)) > 0
        np.testing.assert_array_equal(batch["mask"][..., 0].numpy(), mask)
        assert "depth_image" not in batch
    assert seen == {1, 2, 3, 5, 6, 7, 9}
    for camera, batch in manager.fixed_indices_eval_dataloader:
        frame = _frame(manager.eval_dataset.image_filenames[batch["image_idx"]])
        assert camera.times.item() == pytest.approx(frame**2 / (FRAMES - 1) ** 2, abs=1e-6)


def test_depths_are_z_depths_in_units_of_the_cameras(dataset):
    manager = _datamanager(dataset, load_depths=True)
    scale = manager.train_dataparser_outputs.dataparser_scale
    assert scale != 1 and isinstance(manager.train_dataset, DepthMapDataset)
    points = manager.train_dataparser_outputs.metadata["points3D_xyz"]
    for step in range(3):
        camera, batch = manager.next_train(step)
        name = manager.train_dataset.image_filenames[batch["image_idx"]].name
        stored = np.asarray(Image.open(dataset / "depths_4" / name)).astype(float)
        depth = batch["depth_image"]
        assert depth.dtype == torch.float32 and depth.shape == (*batch["image"].shape[:2], 1)
        np.testing.assert_allclose(depth[..., 0].numpy(), stored * 0.001 * scale, rtol=1e-6)
        # The static cloud, seen by the camera of the batch, lies at these depths (or behind what hides it).
        T = camera.camera_to_worlds[0]
        local = (points - T[:, 3]) @ T[:, :3]
        z = -local[:, 2]
        x = (camera.fx[0] * local[:, 0] / z + camera.cx[0]).floor().long()
        y = (-camera.fy[0] * local[:, 1] / z + camera.cy[0]).floor().long()
        inside = (z > 0) & (x >= 0) & (x < depth.shape[1]) & (y >= 0) & (y < depth.shape[0])
        there = depth[y[inside], x[inside], 0]
        known = there > 0
        ratio = z[inside][known] / there[known]
        assert known.sum() > 200 and ratio.median().item() == pytest.approx(1, abs=0.01)


def test_a_dataset_without_depths_is_refused_where_they_are_needed(dataset):
    meta = json.loads((dataset / "transforms.json").read_text())
    for frame in meta["frames"]:
        del frame["depth_file_path"]
    (dataset / "no_depths.json").write_text(json.dumps(meta))
    assert _datamanager(dataset / "no_depths.json").train_dataset
    with pytest.raises(InputError, match="has no depth maps.*--pipeline.model.depth-weight at 0"):
        _datamanager(dataset / "no_depths.json", load_depths=True)


def test_depths_are_undistorted_with_their_images(dataset):
    """Images that show their own depth: one step of grey is 20 steps of the depth map."""
    width, height = Image.open(dataset / "images_4" / "frame_00001.png").size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    grey = np.rint(40 + 150 * x / width + 40 * y / height).astype(np.uint8)
    for name in ("images", "depths", "masks"):
        (dataset.parent / "lens" / name).mkdir(parents=True, exist_ok=True)
    meta = json.loads((dataset / "transforms.json").read_text())
    del meta["ply_file_path"]
    meta |= {"k1": -0.3, "k2": 0.08, "p1": 0.01, "p2": -0.02, "w": width, "h": height}
    meta |= {key: meta[key] / 4 for key in ("fl_x", "fl_y", "cx", "cy")}
    for frame in meta["frames"]:
        Image.fromarray(np.stack([grey] * 3, axis=-1)).save(dataset.parent / "lens" / frame["file_path"])
        Image.fromarray(grey.astype(np.uint16) * 20).save(dataset.parent / "lens" / frame["depth_file_path"])
        Image.fromarray(np.full_like(grey, 255)).save(dataset.parent / "lens" / frame["mask_path"])
    (dataset.parent / "lens" / "transforms.json").write_text(json.dumps(meta))
    parser = Easi3RDataParserConfig(data=dataset.parent / "lens", downscale_factor=1)
    manager = Easi3RDatamanagerConfig(dataparser=parser, load_depths=True).setup(device="cpu")
    camera, batch = manager.next_train(0)
    scale = manager.train_dataparser_outputs.dataparser_scale
    assert batch["depth_image"].shape[:2] == batch["image"].shape[:2]
    assert int(camera.width) == batch["image"].shape[1]
    read = batch["depth_image"][..., 0] / (0.001 * scale * 20)
    shown = batch["image"][..., 0] * 255
    inner = (slice(2, -2), slice(2, -2))
    assert (read[inner] - shown[inner]).abs().max() < 2.5
    # The lens matters: left as it is, the map would be off by more.
    raw = torch.from_numpy(grey.astype(np.float32))[: read.shape[0], : read.shape[1]]
    assert (raw[inner] - shown[inner]).abs().max() > 6


def test_depth_of_a_distorted_fisheye_is_refused(dataset):
    meta = json.loads((dataset / "transforms.json").read_text()) | {"camera_model": "OPENCV_FISHEYE", "k1": 0.1}
    (dataset / "fisheye.json").write_text(json.dumps(meta))
    manager = _datamanager(dataset / "fisheye.json", load_depths=True)
    with pytest.raises(InputError, match="fisheye"):
        manager.train_dataset[0]


def test_one_option_switches_the_depth_term_on(dataset):
    plain = _pipeline(dataset)
    assert type(plain.datamanager.train_dataset) is InputDataset
    assert not plain.model.config.output_depth_during_training
    with_depth = _pipeline(dataset, depth_weight=0.2)
    assert isinstance(with_depth.datamanager.train_dataset, DepthMapDataset)
    assert with_depth.model.config.output_depth_during_training
    assert specification.SplatfactoEasi3RSpecification.config.pipeline.model.depth_weight == 0


def test_gaussians_start_from_the_static_cloud(dataset):
    pipeline = _pipeline(dataset)
    cloud = open3d.io.read_point_cloud(str(dataset / "sparse_pc.ply"))
    outputs = pipeline.datamanager.train_dataparser_outputs
    # dataparser_transform starts from the clip's world; the file is in the dataset's.
    meta = json.loads((dataset / "transforms.json").read_text())
    applied = np.vstack([meta["applied_transform"], [0, 0, 0, 1]])
    T = outputs.dataparser_transform.numpy() @ np.linalg.inv(applied)
    expected = outputs.dataparser_scale * (np.asarray(cloud.points) @ T[:3, :3].T + T[:3, 3])
    np.testing.assert_allclose(pipeline.model.means.detach().numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(pipeline.model.colors.detach().numpy(), np.asarray(cloud.colors), atol=0.01)


def test_averages_leave_out_images_without_a_static_part(dataset, capsys):
    pipeline = _pipeline(dataset)
    with without_gpu():
        loader = pipeline.datamanager.fixed_indices_eval_dataloader * 2
        camera, batch = loader[0]
        loader[0] = camera, batch | {"mask": torch.zeros_like(batch["mask"])}
        expected = pipeline.get_average_image_metrics(loader[1:], "eval")
        found = pipeline.get_average_image_metrics(loader, "eval", step=3)
    for key in ("psnr", "ssim", "lpips", "static_share"):
        assert math.isfinite(found[key]) and found[key] == expected[key]
    assert f"1 of {len(loader)} images have no static part" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(InputError, match="none of 1 images has a static part"):
        pipeline.get_average_image_metrics(loader[:1], "eval")


def _train(pipeline: Easi3RPipeline, steps: int) -> list[dict[str, float]]:
    """As nerfstudio's trainer does it, with Adam for every group of parameters."""
    rates = {
        "means": 1e-3,
        "features_dc": 2e-2,
        "opacities": 5e-2,
        "scales": 5e-3,
        "quats": 1e-3,
        "features_rest": 1e-3,
    }
    groups = pipeline.get_param_groups()
    assert set(groups) <= set(specification.SplatfactoEasi3RSpecification.config.optimizers)
    optimizers = {name: torch.optim.Adam(groups[name], lr=rates[name]) for name in rates}
    history = []
    for step in range(1, steps + 1):
        pipeline.train()
        pipeline.model.step_cb(type("Optimizers", (), {"optimizers": optimizers}), step)
        _, losses, metrics = pipeline.get_train_loss_dict(step)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        functools.reduce(torch.add, losses.values()).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        pipeline.model.step_post_backward(step)
        history.append({key: float(value) for key, value in (losses | {"psnr": metrics["psnr"]}).items()})
    return history


@pytest.mark.slow
def test_a_training_learns_what_stands_still_and_only_that(dataset, tmp_path):
    """The whole path with a slow rasteriser; a second dataset differs where the masks hide it, the result does not."""
    shutil.copytree(dataset, tmp_path / "spoiled")
    for path in (tmp_path / "spoiled" / "images_4").iterdir():
        image = np.asarray(Image.open(path)).copy()
        static = np.asarray(Image.open(tmp_path / "spoiled" / "masks_4" / path.name)) > 0
        image[~static] = 255 - image[~static]
        Image.fromarray(image).save(path)
    results = []
    for data in (dataset, tmp_path / "spoiled"):
        torch.manual_seed(0)
        pipeline = _pipeline(data, depth_weight=0.1, background_color="black")
        with without_gpu():
            history = _train(pipeline, 16)
            measures = pipeline.get_average_eval_image_metrics()
        results.append((history, [p.detach() for p in pipeline.model.gauss_params.values()], measures["psnr"]))
    (history, parameters, measured), (_, spoiled, measured_spoiled) = results
    start, end = ({k: np.mean([h[k] for h in part]) for k in history[0]} for part in (history[:4], history[-4:]))
    assert end["main_loss"] < 0.8 * start["main_loss"] and end["psnr"] > start["psnr"] + 1
    assert results[0][0] == results[1][0] and measured == measured_spoiled
    assert all(torch.equal(a, b) for a, b in zip(parameters, spoiled))


def test_the_depth_term_sees_the_true_depth_and_moves_the_gaussians(dataset):
    """They start on the true surfaces: rendered and measured depth agree, in the same units."""
    pipeline = _pipeline(dataset, depth_weight=1.0)
    with without_gpu():
        pipeline.train()
        pipeline.model.step_cb(type("Optimizers", (), {"optimizers": {}}), 1)
        _, losses, _ = pipeline.get_train_loss_dict(1)
    assert 0 < losses["depth_loss"].item() < 0.05
    losses["depth_loss"].backward()
    assert pipeline.model.means.grad.abs().sum() > 0


def test_the_command_line_of_the_package_does_not_load_the_method():
    code = (
        "import sys\nfrom easi3r_ns.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted(m for m in sys.modules if m.startswith(('easi3r_ns.plugin.splatfacto', 'nerfstudio', 'torch'))))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_pipeline_config_builds_alone():
    config = Easi3RPipelineConfig()
    assert config._target is Easi3RPipeline and config.model.depth_weight == 0
