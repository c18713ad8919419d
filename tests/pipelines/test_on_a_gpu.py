"""What runs on a GPU, on a pretend one: nothing mixes devices, and the host waits and copies seldom.

The bounds are what was counted, with a little air; what they consist of stands beside them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from easi3r_ns.core.config import AlignConfig, Easi3RConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.depth.agree import Measured, agreement
from easi3r_ns.depth.arrays import TorchOperations
from easi3r_ns.depth.stereo import StereoConfig, measure
from easi3r_ns.depth.views import SceneViews
from easi3r_ns.frames.near import Shot
from easi3r_ns.motion.flow import choose
from easi3r_ns.motion.flow.provider import FlowProvider
from easi3r_ns.motion.flow.raft import RAFTFlow
from easi3r_ns.motion.rigid import SecondLook
from easi3r_ns.network.compute import Compute
from easi3r_ns.network.lazy import LazyBackbone
from easi3r_ns.pipelines import second_look
from easi3r_ns.pipelines.network import reconstruct
from easi3r_ns.pipelines.second_look import look_again
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.measure.paths import frames_of
from easi3r_ns.training.scenes import render_clip
from tests.support.clip_scene import perfect_scene
from tests.support.pretend_cuda import Counts, CudaTensor, pretend_cuda

GPU = torch.device("cuda")
FRAMES, PAIRS = 3, 4
"""Of the toy clip, in the graph of neighbours."""
EDGES_OF_CALLS = 2
"""Copies of a call of the network to find its frames' features: by numbers of rows."""


class CountingLog(RunLog):
    """Keeps what the device was asked to do in every stage."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts
        self.stage_counts: dict[str, Counts] = {}

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        before = self._counts.copy()
        with super().stage(name, total) as advance:
            yield advance
        self.stage_counts[name] = self._counts.since(before)


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    with pretend_cuda() as counts:
        host, there = torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3).to(GPU)
        assert there.is_cuda and (2 * there).device.type == "cuda" and host.device.type == "cpu"
        mixtures: list[Callable[[], object]] = [
            *(lambda: there + host, lambda: host.add_(there), lambda: torch.cat([there, host]), lambda: host @ there.T),
            *(lambda: torch.zeros(()).add_(there[0, 0]), lambda: torch.where(there > 0, host, there)),
        ]
        for mix in mixtures:
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        for get in (there.numpy, lambda: np.asarray(there)):
            with pytest.raises(TypeError, match="numpy"):
                get()
        torch.testing.assert_close((there + torch.tensor(2.0)).cpu(), host + 2)
        assert type(there.cpu()) is torch.Tensor and type(there.to("cpu", torch.float64)) is torch.Tensor
        layer = nn.Linear(3, 2).to(GPU)
        assert isinstance(layer.weight, CudaTensor) and layer(there).is_cuda
        counts.clear()
        with torch.inference_mode():
            layer(there)
        assert (counts.launches, counts.waits) == (1, 0)


def test_what_the_host_waits_for_is_counted() -> None:
    with pretend_cuda() as counts:
        there = torch.arange(6.0, device=GPU)

        def counted(work: Callable[[], object]) -> tuple[int, int, int]:
            counts.clear()
            work()
            return counts.to_device, counts.to_host, counts.waits

        assert counted(lambda: there.view(2, 3)[0].sum()) == (0, 0, 0)
        assert counted(lambda: there.cpu()) == counted(lambda: float(there[0])) == (0, 1, 1)
        assert counted(lambda: there[[0, 1]]) == counted(lambda: there[torch.tensor([0])]) == (1, 0, 1)
        assert counted(lambda: there[there > 2]) == counted(lambda: torch.nonzero(there)) == (0, 0, 1)
        pinned = torch.empty(6, pin_memory=True)
        assert counted(lambda: pinned.copy_(there, non_blocking=True)) == (0, 1, 0)
        assert counted(torch.cuda.Event().synchronize) == (0, 0, 1)


@dataclass(frozen=True)
class Run:
    """The same clip on the pretend device and on the CPU."""

    ours: Scene
    on_cpu: Scene
    stages: dict[str, Counts]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three frames through the small network that ships with the package, two steps of the alignment."""
    clip, folder = render_clip(5, FRAMES, 64, 96), tmp_path_factory.mktemp("clip")
    frames = frames_of(clip)
    paths = tuple(folder / path.name for path in frames.source_paths)
    for path, image in zip(paths, clip.images, strict=True):
        write_png(path, image)
    frames = replace(frames, source_paths=paths)

    def scene(device: str, log: RunLog) -> Scene:
        config = Easi3RConfig(weights="tiny", graph="swinstride-1-noncyclic", device=device, flow="dis")
        backbone = LazyBackbone.open("tiny", device=torch.device(device), log=log)
        return reconstruct(frames, backbone, config, AlignConfig(iterations=2), StageCache(None), log)

    with pretend_cuda() as counts:
        log = CountingLog(counts)
        ours = scene("cuda", log)
    return Run(ours, scene("cpu", RunLog()), log.stage_counts)


@pytest.mark.slow
def test_a_whole_reconstruction_is_that_of_the_cpu(run: Run) -> None:
    np.testing.assert_allclose(
        run.ours.T_world_cam, run.on_cpu.T_world_cam, atol=1e-3
    )  # batches differ, and two steps are no minimum
    np.testing.assert_allclose(run.ours.focals, run.on_cpu.focals, rtol=1e-3)
    np.testing.assert_array_equal(run.ours.dynamic.masks, run.on_cpu.dynamic.masks)


def test_the_network_waits_once_a_call(run: Run) -> None:
    """All pairs fit one call."""
    encode, attend, decode = (run.stages[n] for n in ("encode frames", "pass 1: attention", "pass 2: pointmaps"))
    # The images, and of the first call two tables of positions and the encoding of absolute ones; the features back.
    assert encode.to_device <= 4 and encode.to_host <= 1
    # The first call's tables; per call the rows of both views' features, and per view two tables of the statistics.
    assert attend.to_device <= 2 + EDGES_OF_CALLS + 4 and attend.to_host == 0
    # And the moving tokens of both views. Back come four maps and their ranges, for which the host waits once.
    assert decode.to_device <= EDGES_OF_CALLS + 4 + 2 and decode.to_host <= 5
    assert decode.waits <= decode.to_device + 1
    # The features and the four maps of the statistics, of which some are there already.
    assert run.stages["pass 1: motion"].to_host <= 1


def test_launches_do_not_grow_with_the_pairs_of_a_call(run: Run) -> None:
    """Counted: 420 for the tiny network's decoders and 500 with its heads."""
    assert run.stages["pass 1: attention"].launches < 460 and run.stages["pass 2: pointmaps"].launches < 550


class Shift(nn.Module):
    """In place of RAFT: a convolution, so that there are weights to move to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, first: torch.Tensor, second: torch.Tensor, num_flow_updates: int) -> list[torch.Tensor]:
        return [self.conv(torch.cat([first, second], dim=1))]


def shift(compute: Compute) -> RAFTFlow:
    torch.manual_seed(0)
    return RAFTFlow(Shift(), compute)


def test_flow_copies_two_images_and_one_field_a_call() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 40, 56, 3)).astype(np.uint8)
    with pretend_cuda() as counts:
        provider = shift(Compute(GPU, batch_size=2))
        counts.clear()
        ours = provider.flow(images, images[::-1].copy())
        assert (counts.to_device, counts.to_host) == (2 * 2, 2)
    expected = shift(Compute(torch.device("cpu"))).flow(images, images[::-1].copy())
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def measured(scene: Scene, device: torch.device, counts: Counts) -> tuple[list[np.ndarray], list[Counts]]:
    """Inverse depth of the first frame by stereo, and with how many frames it agrees; with what each step counted."""
    config, ops, found = StereoConfig(fewest_planes=24, most_planes=24), TorchOperations(device), []
    views = SceneViews(scene, ops, len(scene))
    shown = [views[k] for k in range(len(scene))]
    found.append(counts.copy())
    inverse = measure(ops, shown, 1.0, 12.0, config)
    found.append(counts.copy())
    own, *others = (Measured(view.fine, ops.put(inverse)) for view in shown)
    maps = [ops.get(values) for values in agreement(ops, own, others)]
    found.append(counts.copy())
    return [inverse, *maps], [found[0], found[1].since(found[0]), found[2].since(found[1])]


def test_stereo_on_the_device_is_that_of_torch_on_the_cpu(tmp_path: Path) -> None:
    scene = perfect_scene(render_clip(3, 3, 48, 64), tmp_path)
    others = len(scene) - 1
    with pretend_cuda() as counts:
        ours, (made, swept, agreed) = measured(scene, GPU, counts)
    expected, _ = measured(scene, torch.device("cpu"), Counts())
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one > 0).any()
    assert made.to_device <= 6 * len(scene) and made.to_host == 0, "three pictures in two sizes"
    # Two surfaces, each with a grid for every other view; back come the plane and two surfaces, their score, and where
    # the picture is known.
    assert swept.to_device <= 2 * (1 + others) and swept.to_host <= 5
    # What every view measured, and a grid for every other one; the depth and the count come back.
    assert agreed.to_device <= len(scene) + others and agreed.to_host <= 2
    assert swept.waits + agreed.waits <= swept.to_device + swept.to_host + agreed.to_device + agreed.to_host


def test_the_second_look_asks_the_device_for_flow_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look itself, here one call for flow, is NumPy; the estimator runs on the device of the config."""
    scene = perfect_scene(render_clip(3, 2, 48, 64), tmp_path)
    scene = replace(scene, dynamic=replace(scene.dynamic, source="geometry"), confidence=np.full_like(scene.depth, 3))
    common = {n: getattr(scene, n) for n in ("images", "pixel_map", "times", "indices", "names", "source_paths")}
    calls = []

    def look(
        scene: Scene, shot: Shot, patch: int, log: RunLog, *, provider: FlowProvider, first_row: int
    ) -> SecondLook:
        calls.append(provider.flow(scene.images[:1], scene.images[1:]))
        masks = np.zeros_like(scene.dynamic.masks)
        dynamic = DynamicMasks(masks, scene.dynamic.score, 0.3, "scene", {}, first=scene.dynamic.masks)
        return SecondLook(dynamic, np.ones_like(masks), np.ones(2), 0.02, 0.0)

    monkeypatch.setattr(second_look, "second_look", look)
    monkeypatch.setitem(choose.ESTIMATORS, "raft", lambda compute, _: shift(replace(compute, batch_size=8)))
    config = Easi3RConfig(weights="none", device="cuda", flow="raft")
    with pretend_cuda() as counts:
        looks = look_again(scene, Frames(**common, num_source_frames=2), config, 16, StageCache(None), RunLog())
    assert looks.scene.provenance["motion"]["kept"] == "second" and len(calls) == 1
    weights = len(list(Shift().parameters()))
    assert counts.launches > 0 and (counts.to_device, counts.to_host) == (weights + 2, 1)
