"""Both sides of the benchmark, measured: ours as the pipeline runs it, and a textbook twin of the reference's schedule.

Each side runs in a process of its own (:mod:`tests.bench.bench_network`), so that a peak is its own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from easi3r_ns.align.align import AlignResult, align
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.geometry import image_centre_in_network
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene, choose_scale, rescale_scene
from easi3r_ns.core.types import Frames, PairGraph, PairPredictions
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.motion.attention.masks import cluster_tokens, segment_dynamic, static_masks, token_masks
from easi3r_ns.motion.attention.statistics import AttentionAccumulator, dynamic_score
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.flow.provider import pair_flow
from easi3r_ns.network.compute import Compute, normalise
from easi3r_ns.network.inference import encode_frames
from easi3r_ns.network.lazy import LazyBackbone
from easi3r_ns.network.model import DUSt3R
from easi3r_ns.network.weights import load_backbone
from easi3r_ns.pipelines.stages import Shared, StageInputs, run_passes
from easi3r_ns.storage.cache import StageCache
from tests.bench.stages import GRAPH, ITERATIONS, STAGES, BenchLog, Row, Setting, scaled, scaled_twin
from tests.bench.textbook import TextbookPass, run_pass
from tests.support.align_scene import AlignScene, make_scene

MAPS = ("points_i", "conf_i", "points_j", "conf_j")


def write_clip(path: Path, setting: Setting, frames: int) -> None:
    """A video of twice the network's size that pans over one random texture.

    A folder of images of that name, without suffix, on a bare GPU machine, where nothing reads videos.
    """
    height, width = (2 * side for side in setting.image)
    noise = np.random.default_rng(0).integers(0, 256, (height + 2 * frames, width + 4 * frames, 3), dtype=np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX)
    images = (texture[2 * k : 2 * k + height, 4 * k : 4 * k + width] for k in range(frames))
    try:
        import av  # noqa: F401, what the pipeline reads videos with
    except ImportError:
        path.with_suffix("").mkdir()
        for k, image in enumerate(images):
            cv2.imwrite(str(path.with_suffix("") / f"{k:05d}.png"), image)
        return
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, (width, height))
    for image in images:
        video.write(image)
    video.release()


def synthetic_scene(setting: Setting, frames: int) -> AlignScene:
    """Pointmaps of random weights are no scene: the alignment gets these."""
    return make_scene(num_frames=frames, size=setting.image, focal=setting.image[1], graph=make_pairs(GRAPH, frames))


def prepare(setting: Setting, folder: Path) -> None:
    """Weights, clip and pointmaps, made in a process whose memory is not counted."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DUSt3R(setting.network).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            state[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        else:
            state[name] = torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(setting.network)))
    for name in ("clip", "ours", "twin"):
        write_clip(folder / f"{name}.mp4", setting, setting.run_frames(name))
    for name in ("clip", "twin"):
        scene = synthetic_scene(setting, setting.run_frames(name))
        save_file({key: getattr(scene.predictions, key).half() for key in MAPS}, folder / f"{name}.safetensors")


def measure_ours(setting: Setting, folder: Path) -> list[Row]:
    """The pipeline's stages, from the video to the dataset."""
    compute = setting.compute()
    log = BenchLog(compute.device.type == "cuda")
    frames = _frames(folder, "clip", setting, log)
    few = _frames(folder, "ours", setting, RunLog())
    config, graph = Easi3RConfig(weights=str(folder)), make_pairs(GRAPH, len(few))
    backbone = LazyBackbone.open(config.weights, device=compute.device, log=log, dtype=compute.dtype)
    cache, spill = StageCache(folder / "stages"), setting.budget().spill
    inputs = StageInputs(few, graph, backbone, config, compute, cache, log, spill=spill)
    run_passes(inputs, Shared.of(inputs))
    backbone.release()
    graph = make_pairs(GRAPH, len(frames))
    flow = pair_flow(frames.images, graph, DISFlow(), log)
    aligned = align(
        PairPredictions(graph, **load_file(folder / "clip.safetensors")),
        principal_point=image_centre_in_network(frames.pixel_map),
        config=AlignConfig(iterations=ITERATIONS),
        flow=flow,
        device=compute.device,
        log=log,
    )
    _write(frames, aligned, setting, folder / "out", log)
    rows = log.rows(STAGES)
    rows["statistics"] = _statistics(setting, graph)
    return [scaled(row, setting) for row in rows.values()]


def measure_twin(setting: Setting, folder: Path) -> list[Row]:
    """The reference's schedule in float32; only stages that it does otherwise."""
    compute, num_frames = Compute(setting.compute().device), setting.run_frames("twin")
    log, graph = BenchLog(compute.device.type == "cuda"), make_pairs(GRAPH, num_frames)
    frames = _frames(folder, "twin", setting, RunLog())
    model, _ = load_backbone(str(folder), device=compute.device, log=RunLog())
    pixels = normalise(frames.images, compute.device)
    masks: np.ndarray | None = None
    for name in ("pass 1", "pass 2"):
        with log.stage(name):
            result = run_pass(model, pixels, graph.edges, masks)
        masks = _twin_masks(result, model, frames, graph, compute, log)
        del result
    del model
    rows = log.rows({name: name for name in ("pass 1", "pass 2", "statistics", "masks")})
    rows["alignment"] = _plain_alignment(setting, folder)
    return [scaled_twin(row, setting) for row in rows.values()]


def _frames(folder: Path, side: str, setting: Setting, log: RunLog) -> Frames:
    network = setting.network
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square)
    select = FrameConfig(num_frames_target=0)
    video = folder / f"{side}.mp4"
    data = video if video.exists() else video.with_suffix("")
    return load_frames(data, folder / f"frames-{side}", select=select, geometry=geometry, log=log)


def _twin_masks(
    result: TextbookPass, model: torch.nn.Module, frames: Frames, graph: PairGraph, compute: Compute, log: RunLog
) -> np.ndarray:
    """Tokens that move; clustered anew in each pass."""
    with log.stage("statistics"):
        stats = result.stats(graph.edges, len(frames))
    with log.stage("features again"):
        features = encode_frames(model, frames.images, compute, lambda steps: None).cpu().numpy()
    with log.stage("masks"):
        grid = stats.mean_src.shape[1:3]
        labels = cluster_tokens(features.reshape(len(frames), *grid, -1), seed=0)
        dynamic = segment_dynamic(dynamic_score(stats), labels, model.config.patch_size)
    return token_masks(dynamic.masks, model.config.patch_size)


def _plain_alignment(setting: Setting, folder: Path) -> Row:
    """The loop over every pixel of :mod:`tests.bench.bench_align` on the CPU, as the reference runs it.

    A few of its iterations stand for all.
    """
    from tests.bench.bench_align import run

    num_frames, log = setting.run_frames("twin"), BenchLog(False)
    maps = {name: values.float() for name, values in load_file(folder / "twin.safetensors").items()}
    scene = synthetic_scene(setting, num_frames)
    scene = dataclasses.replace(scene, predictions=PairPredictions(make_pairs(GRAPH, num_frames), **maps))
    config = AlignConfig(solver="adam", iterations=ITERATIONS, max_pixels=0)
    with log.stage("alignment"):
        *_, seconds, _ = run(scene, None, config, setting.twin_iterations)
    return Row("alignment", seconds, seconds, 0.0, log.stages[0].peak_memory_bytes)


def _statistics(setting: Setting, graph: PairGraph) -> Row:
    """What the running means of the attention cost; a part of the passes."""
    network, log = setting.network, BenchLog(False)
    maps = torch.randn(2, *setting.grid, network.dec_depth * network.dec_num_heads)
    accumulator = AttentionAccumulator(graph.num_frames)
    with log.stage("statistics"):
        for edge in graph.edges.tolist():
            accumulator.add(tuple(edge), maps[0], maps[1])
        accumulator.finish()
    return dataclasses.replace(log.rows({"statistics": "statistics"})["statistics"], peak_bytes=0.0)


def _write(frames: Frames, aligned: AlignResult, setting: Setting, folder: Path, log: RunLog) -> None:
    try:
        from easi3r_ns.dataset.nerfstudio import write_dataset
    except ImportError:  # a bare GPU machine has no Open3D: the table then lacks this row
        return
    scene = Scene(
        images=frames.images,
        T_world_cam=aligned.T_world_cam,
        focals=aligned.focals,
        principal_point=image_centre_in_network(frames.pixel_map),
        depth=aligned.depth,
        confidence=aligned.confidence,
        dynamic=static_masks(len(frames), *setting.image, setting.network.patch_size),
        pixel_map=frames.pixel_map,
        times=frames.times,
        indices=frames.indices,
        names=frames.names,
        source_paths=frames.source_paths,
    )
    write_dataset(rescale_scene(scene, choose_scale(scene)), folder, DatasetConfig(), log)
