"""What the motion masks do for a radiance field: nerfacto on the example clip, small, on one CPU core.

``python -m tests.bench.bench_training --work DIR`` makes two datasets of ``examples/clip`` in DIR (cameras and masks of
the truth; cameras and masks of ``easi3r run --weights tiny``), trains nerfacto on each with and without their masks,
and prints a table. Measured on held-out frames, with the TRUE masks for every run:

* ``static``: PSNR and SSIM over the pixels that show nothing that moves;
* ``behind``: PSNR over the pixels that show a mover, against the clip rendered WITHOUT movers: the background that is
  hidden in this frame and seen in others.

Every run lies as JSON in DIR and is not repeated. LPIPS, whose weights would be downloaded, is replaced by nothing.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import random
import runpy
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.plugin.dataparser import Easi3RDataParserConfig
from easi3r_ns.plugin.splatfacto.masked import mean_ssim, psnr

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "examples" / "clip"
SHRINK = 4
"""Images are trained on and measured at a quarter of the clip's size: 160 x 120."""
EVERY = 6
"""Every sixth frame is held out."""
EDGE = 2
"""Pixels of the clip by which the true masks are grown for the static measure, cut for the other: blur, compression."""


@dataclass(frozen=True)
class Truth:
    """The example clip at full size; F frames."""

    images: np.ndarray
    """(F, H, W, 3) uint8, as decoded from the video."""
    moving: np.ndarray
    """(F, H, W) bool."""
    depth: np.ndarray
    """(F, H, W) float32 metres."""
    meta: dict[str, Any]


def read_truth() -> Truth:
    import av

    with av.open(str(CLIP / "clip.mp4")) as container:
        images = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    meta = json.loads((CLIP / "truth.json").read_text())
    moving = [np.asarray(Image.open(CLIP / frame["mask"]).convert("L")) > 0 for frame in meta["frames"]]
    coarse = [np.asarray(Image.open(CLIP / frame["depth"])).astype(np.float32) for frame in meta["frames"]]
    whole = np.ones((meta["depth_downscale"],) * 2, np.float32)
    depth = np.stack([np.kron(frame, whole) for frame in coarse]) * meta["depth_unit_m"]
    return Truth(images, np.stack(moving), depth.astype(np.float32), meta)


def true_dataset(truth: Truth, folder: Path) -> None:
    """Write the clip with its true cameras, masks and depth."""
    count, height, width = truth.moving.shape
    store = folder.with_name(f"{folder.name}_frames")
    store.mkdir(parents=True, exist_ok=True)
    paths = tuple(store / f"{index:05d}.png" for index in range(count))
    for image, path in zip(truth.images, paths):
        Image.fromarray(image).save(path)
    # The dataset's writer turns a world whose y points down; the truth has z up.
    y_down = np.array([[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    poses = y_down @ np.array([frame["T_world_cam"] for frame in truth.meta["frames"]])
    scene = Scene(
        images=truth.images,
        T_world_cam=poses,
        focals=np.full(count, truth.meta["fx"]),
        principal_point=np.array([truth.meta["cx"], truth.meta["cy"]]),
        depth=truth.depth,
        confidence=np.full(truth.depth.shape, 3.0, np.float32),
        dynamic=DynamicMasks(truth.moving, np.zeros((count, 4, 4), np.float32), float("nan"), "user"),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=np.array([frame["time"] for frame in truth.meta["frames"]]),
        indices=np.arange(count),
        names=("clip.mp4",) * count,
        source_paths=paths,
    )
    write_dataset(scene, folder, DatasetConfig(num_downscales=2, mask_growth=EDGE), RunLog())


def tiny_dataset(folder: Path) -> None:
    """Run the command on the clip, as a user does."""
    command = [sys.executable, "-W", "ignore", "-m", "easi3r_ns", "run", "--data", CLIP / "clip.mp4"]
    command += ["--output-dir", folder, "--weights", "tiny", "--refine", "none", "--num-frames-target", "0"]
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def clean_plates(frames: list[int]) -> dict[int, np.ndarray]:
    """The clip's frames without what moves, (h, w, 3) in [0, 1] at the measured size."""
    script = runpy.run_path(str(ROOT / "examples" / "render_clip.py"))
    script["living_room"].__globals__["MOVERS"] = []
    times = np.arange(script["NUM_FRAMES"]) / script["FPS"]
    height, width = script["HEIGHT"], script["WIDTH"]
    meta = json.loads((CLIP / "truth.json").read_text())
    poses = np.array([meta["frames"][index]["T_world_cam"] for index in frames])
    options = script["ClipOptions"](fps=script["FPS"], noise=0.0)
    scene = script["living_room"](times[-1])
    clip = script["film"](scene, (), poses, script["FOCAL"], (height, width), times[frames], options)
    return dict(zip(frames, (shrink(image / 255.0) for image in clip.images)))


def shrink(image: np.ndarray) -> np.ndarray:
    """(H, W, ...) -> means of blocks of SHRINK x SHRINK pixels."""
    height, width = image.shape[0] // SHRINK, image.shape[1] // SHRINK
    return image.reshape(height, SHRINK, width, SHRINK, *image.shape[2:]).mean(axis=(1, 3))


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def nerfacto(data: Path, with_masks: bool, rays: int) -> Any:
    """nerfstudio's nerfacto as a pipeline: torch only, small enough for one CPU core; cameras stay as they are."""
    from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.pixel_samplers import PixelSamplerConfig
    from nerfstudio.models.nerfacto import NerfactoModelConfig
    from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

    parser = Easi3RDataParserConfig(
        data=data, downscale_factor=SHRINK, eval_mode="interval", eval_interval=EVERY, load_3D_points=False
    )
    proposal = {"hidden_dim": 16, "log2_hashmap_size": 12, "num_levels": 4, "max_res": 64, "use_linear": False}
    model = NerfactoModelConfig(
        implementation="torch",
        num_levels=6,
        max_res=256,
        log2_hashmap_size=14,
        hidden_dim=32,
        hidden_dim_color=32,
        num_proposal_samples_per_ray=(32,),
        num_proposal_iterations=1,
        proposal_net_args_list=[proposal],
        num_nerf_samples_per_ray=20,
        proposal_weights_anneal_max_num_iters=200,
        proposal_warmup=200,
        average_init_density=0.01,
        use_appearance_embedding=False,
        eval_num_rays_per_chunk=2048,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
    )
    manager = VanillaDataManagerConfig(
        dataparser=parser,
        train_num_rays_per_batch=rays,
        eval_num_rays_per_batch=rays,
        pixel_sampler=PixelSamplerConfig(ignore_mask=not with_masks),
    )
    with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", lambda **_: torch.nn.Identity()):
        return VanillaPipelineConfig(datamanager=manager, model=model).setup(device="cpu")


def train(pipeline: Any, steps: int) -> None:
    """Adam as nerfacto has it, 1e-2 falling to 1e-3."""
    from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation

    attributes = TrainingCallbackAttributes(optimizers=None, grad_scaler=None, pipeline=pipeline, trainer=None)
    callbacks = pipeline.get_training_callbacks(attributes)
    parameters = [p for group in pipeline.get_param_groups().values() for p in group]
    optimizer = torch.optim.Adam(parameters, lr=1e-2, eps=1e-15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / steps))
    pipeline.train()
    for step in range(steps):
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        losses = pipeline.get_train_loss_dict(step)[1]
        optimizer.zero_grad()
        functools.reduce(torch.add, losses.values()).backward()
        optimizer.step()
        schedule.step()
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)


def measure(pipeline: Any, truth: Truth, pictures: Path) -> dict[str, float]:
    """The held-out frames; the true masks decide what is compared with what."""
    from pytorch_msssim import SSIM

    pipeline.eval()
    dataset = pipeline.datamanager.eval_dataset
    frames = [int(path.stem[-5:]) - 1 for path in dataset.image_filenames]
    plates = clean_plates(frames)
    found: dict[str, list[torch.Tensor]] = {"static_psnr": [], "static_ssim": [], "behind_psnr": [], "whole_psnr": []}
    for position, frame in enumerate(frames):
        rendered = pipeline.model.get_outputs_for_camera(dataset.cameras[position : position + 1])["rgb"]
        image, plate = (torch.from_numpy(a).float() for a in (dataset[position]["image"].numpy(), plates[frame]))
        static = torch.from_numpy(shrink(grow(truth.moving[frame], EDGE)) == 0)
        hidden = torch.from_numpy(shrink(~grow(~truth.moving[frame], EDGE)) == 1)
        found["static_psnr"].append(psnr(rendered, image, static))
        found["static_ssim"].append(mean_ssim(rendered, image, static, SSIM(data_range=1.0), if_none=float("nan")))
        found["behind_psnr"].append(psnr(rendered, plate, hidden))
        found["whole_psnr"].append(psnr(rendered, image, torch.ones_like(static)))
        row = torch.cat([image, rendered.clamp(0, 1), plate], dim=1)
        Image.fromarray((row.numpy() * 255).round().astype(np.uint8)).save(f"{pictures}_{frame + 1:05d}.png")
    return {name: float(torch.stack(values).mean()) for name, values in found.items()}


def mask_agreement(dataset: Path, truth: Truth) -> tuple[float, float]:
    """Mean IoU and recall of the dataset's masks (what they hide) with the pixels that really move."""
    hidden = [np.asarray(Image.open(path)) == 0 for path in sorted((dataset / "masks").glob("*.png"))]
    pairs = list(zip(hidden, truth.moving, strict=True))
    return tuple(
        float(np.mean([(a & b).sum() / of(a, b).sum() for a, b in pairs])) for of in (np.logical_or, lambda a, b: b)
    )


def write_sheet(results: list[dict[str, Any]], options: SimpleNamespace, frame: int = 13) -> None:
    """One held-out frame, a row for each training: the frame, what was rendered, the room without movers."""
    rows = [Image.open(options.work / f"{r['data']}_{r['masks']}_{r['seed']}_{frame:05d}.png") for r in results]
    Image.fromarray(np.vstack([np.asarray(row) for row in rows])).save(options.sheet, quality=88)


def run(options: SimpleNamespace, data: str, masks: str, seed: int) -> dict[str, Any]:
    """One training; its result is kept as JSON."""
    stem = options.work / f"{data}_{masks}_{seed}"
    result = stem.with_suffix(".json")
    settings = {"steps": options.steps, "rays": options.rays}
    if result.exists() and json.loads(result.read_text())["settings"] == settings:
        return json.loads(result.read_text())
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
    before = time.process_time()
    pipeline = nerfacto(options.work / data, masks == "masks", options.rays)
    train(pipeline, options.steps)
    figures = measure(pipeline, read_truth(), stem)
    figures |= {"data": data, "masks": masks, "seed": seed, "settings": settings}
    figures["cpu_seconds"] = round(time.process_time() - before)
    result.write_text(json.dumps(figures, indent=1))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for datasets, results and pictures")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rays", type=int, default=512, help="rays a step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", nargs="+", default=["true", "tiny"], choices=["true", "tiny"])
    parser.add_argument("--masks", nargs="+", default=["none", "masks"], choices=["none", "masks"])
    parser.add_argument("--sheet", type=Path, help="JPEG to write: one held-out frame of every training")
    options = parser.parse_args(namespace=SimpleNamespace())
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    makers = {"true": lambda folder: true_dataset(read_truth(), folder), "tiny": tiny_dataset}
    for data in options.data:
        if not (options.work / data / "transforms.json").exists():
            makers[data](options.work / data)
    variants = itertools.product(options.seeds, options.data, options.masks)
    results = [run(options, data, masks, seed) for seed, data, masks in variants]
    columns = ("static_psnr", "static_ssim", "behind_psnr", "whole_psnr", "cpu_seconds")
    sys.stdout.write("| dataset | trained with | seed | " + " | ".join(columns) + " |\n" + "|---" * 8 + "|\n")
    for r in results:
        figures = " | ".join(f"{r[name]:.3f}" if "ssim" in name else f"{r[name]:.2f}" for name in columns)
        sys.stdout.write(f"| {r['data']} | {r['masks']} | {r['seed']} | {figures} |\n")
    for data in options.data:
        agreement = "IoU {:.2f}, recall {:.2f}".format(*mask_agreement(options.work / data, read_truth()))
        sys.stdout.write(f"masks of {data}: {agreement}\n")
    if options.sheet:
        write_sheet(results, options)


if __name__ == "__main__":
    main()
