"""RAFT as a flow provider: padding, enlargement, direction, batches, loading from torch's cache, the way on offline."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import urllib.error
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.optical_flow import raft_large, raft_small

from easi3r_ns.cli import main as cli
from easi3r_ns.core.config import AlignConfig, Easi3RConfig
from easi3r_ns.core.errors import CheckpointError, InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.motion.flow import raft as flow_raft
from easi3r_ns.motion.flow.choose import ESTIMATORS, choose_flow
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.flow.provider import FlowProvider
from easi3r_ns.motion.flow.raft import RAFTFlow, load_raft, padding, weights_path
from easi3r_ns.network.compute import Compute
from easi3r_ns.pipelines.network import reconstruct
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.measure.motion import make_clip
from easi3r_ns.training.measure.paths import frames_of
from tests.support.dragged_standin import DraggedStandIn

CPU = Compute(torch.device("cpu"))
GPU = Compute(torch.device("meta"))
"""Any device that is not a CPU: nothing may be computed on it."""


class Log(RunLog):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)


class Ramp(nn.Module):
    """In place of RAFT: answers with the red of both images, so that every pixel can be followed through the resizing.

    Grey levels v in 0..255 come as v / 127.5 - 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, first: torch.Tensor, second: torch.Tensor, num_flow_updates: int) -> list[torch.Tensor]:
        assert first.shape[2] % 8 == first.shape[3] % 8 == 0 and min(first.shape[2:]) >= 128
        self.sizes.append(tuple(first.shape))
        return [torch.zeros(1), (torch.cat([first[:, :1], second[:, :1]], dim=1) + 1) * 127.5]


def ramps(count: int, height: int, width: int) -> np.ndarray:
    """(B, H, W, 3): rows, columns and their sum tell every pixel and image from the others."""
    y, x = np.mgrid[:height, :width]
    return np.stack([np.repeat((20 + k + x // 2 + y // 4)[..., None], 3, axis=-1) for k in range(count)]).astype("u1")


@pytest.fixture
def torch_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    weights_path().parent.mkdir(parents=True)
    return weights_path()


@pytest.mark.parametrize("size", [(128, 160), (130, 203), (135, 129)])
def test_padding_is_undone_exactly(size):
    source, target = ramps(2, *size), ramps(2, *size)[::-1] + np.uint8(40)
    model = Ramp()
    field = RAFTFlow(model, CPU).flow(source, target)
    assert field.shape == (2, *size, 2) and field.dtype == np.float32
    np.testing.assert_allclose(field[..., 0], source[..., 0], atol=1e-4)
    np.testing.assert_allclose(field[..., 1], target[..., 0], atol=1e-4)
    left, right, top, bottom = padding(*size)
    assert abs(left - right) <= 1 and abs(top - bottom) <= 1 and max(left, right, top, bottom) <= 4
    assert model.sizes[0][2:] == (size[0] + top + bottom, size[1] + left + right)


@pytest.mark.parametrize(("size", "enlarge"), [((96, 128), 2), ((40, 61), 4), ((127, 300), 2)])
def test_enlarging_is_undone(size, enlarge):
    source = ramps(1, *size)
    model = Ramp()
    field = RAFTFlow(model, CPU).flow(source, source)
    assert field.shape == (1, *size, 2) and min(model.sizes[0][2:]) >= size[0] * enlarge
    # A field in pixels of the enlarged image counts ``enlarge`` times as much.
    inside = np.s_[:, 2:-2, 2:-2]
    np.testing.assert_allclose(field[..., 0][inside] * enlarge, source[..., 0][inside], atol=0.6)


@pytest.fixture(scope="module")
def small() -> RAFTFlow:
    torch.manual_seed(0)
    return RAFTFlow(raft_small(weights=None), CPU)


def test_a_batch_is_the_loop_over_its_pairs(small):
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 255, (2, 3, 128, 136, 3)).astype(np.uint8)
    together = small.flow(source, target)
    alone = np.concatenate([small.flow(source[k : k + 1], target[k : k + 1]) for k in range(3)])
    assert isinstance(small, FlowProvider) and np.abs(together).max() > 1e-3
    np.testing.assert_allclose(together, alone, atol=1e-3 * np.abs(alone).max())
    assert np.abs(small.flow(target, source) - together).max() > 1e-2 * np.abs(together).max()


class Shift(nn.Module):
    """In place of RAFT: the shift between two images by phase correlation, as a constant field."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, num_flow_updates: int) -> list[torch.Tensor]:
        spectra = [torch.fft.rfft2(x.mean(dim=1)) for x in (first, second)]
        cross = spectra[1] * spectra[0].conj()
        peak = torch.fft.irfft2(cross / cross.abs().clamp_min(1e-9), s=first.shape[2:]).flatten(1).argmax(dim=1)
        height, width = first.shape[2:]
        dy, dx = ((v + n // 2) % n - n // 2 for v, n in ((peak // width, height), (peak % width, width)))
        return [torch.stack([dx, dy], dim=1)[:, :, None, None].float().expand(-1, 2, height, width)]


@pytest.mark.parametrize(("size", "shift"), [((128, 160), (5, -3)), ((64, 80), (4, 2))])
def test_direction_and_unit(size, shift):
    """Source pixel p is seen at p + flow(p), in pixels of the given images however they were enlarged."""
    rng = np.random.default_rng(1)
    source = rng.integers(0, 255, (1, *size, 1)).astype(np.uint8).repeat(3, axis=-1)
    target = np.roll(source, (shift[1], shift[0]), axis=(1, 2))
    field = RAFTFlow(Shift(), CPU).flow(source, target)
    np.testing.assert_allclose(field, np.broadcast_to(shift, field.shape), atol=0.1)


def test_batches_are_halved_until_they_fit(monkeypatch):
    class Full(Ramp):
        def forward(self, first, second, num_flow_updates):
            if len(first) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().forward(first, second, num_flow_updates)

    model = Full()
    source = ramps(7, 128, 128)
    field = RAFTFlow(model, Compute(torch.device("cpu"), batch_size=6)).flow(source, source)
    np.testing.assert_allclose(field[..., 0], source[..., 0], atol=1e-4)
    assert max(size[0] for size in model.sizes) <= 2
    monkeypatch.setattr(Full, "forward", lambda *_, **__: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("CUDA")))
    with pytest.raises(InputError, match="does not fit"):
        RAFTFlow(Full(), CPU).flow(source, source)


def test_weights_come_from_the_cache_of_torch(torch_cache):
    torch.manual_seed(3)
    reference = raft_large(weights=None)
    torch.save(reference.state_dict(), torch_cache)
    loaded = load_raft(CPU, RunLog())
    pairs = zip(reference.state_dict().items(), loaded._model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert torch_cache.name == "raft_large_C_T_SKHT_V2-ff5fadd5.pth" and not loaded._model.training


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("content", ["empty", "cut", "other network", "code"])
def test_a_damaged_file_is_named_and_fetched_anew(tmp_path, torch_cache, monkeypatch, content):
    if content == "other network":
        torch.save(raft_small(weights=None).state_dict(), torch_cache)
    elif content == "code":
        torch.save({"a": Trap(tmp_path / "trap")}, torch_cache)
    else:
        torch.save({"a": torch.zeros(1000)}, torch_cache)
        torch_cache.write_bytes(torch_cache.read_bytes()[: 0 if content == "empty" else 600])
    monkeypatch.setattr(flow_raft.urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", no_host)
    with pytest.raises(CheckpointError, match="--flow raft: .*ff5fadd5.pth is damaged and there is no .*--flow dis"):
        load_raft(CPU, RunLog())
    assert not (tmp_path / "trap").exists()
    fetched = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        fetched.append(socket.getdefaulttimeout())
        torch.save(raft_large(weights=None).state_dict(), path)

    log = Log()
    monkeypatch.setattr(flow_raft, "_known_host", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert isinstance(load_raft(CPU, log), RAFTFlow) and fetched == [flow_raft.DOWNLOAD_SECONDS]
    assert len(log.warnings) == 1 and str(torch_cache) in log.warnings[0] and "fetched anew" in log.warnings[0]
    assert socket.getdefaulttimeout() is None


def no_host(*_: object) -> None:
    raise socket.gaierror("no such host")


@pytest.mark.parametrize("proxies", [{}, {"no": "localhost"}])
def test_without_network_the_error_names_the_file_and_the_ways_on(proxies, torch_cache, monkeypatch):
    monkeypatch.setattr(flow_raft.urllib.request, "getproxies", lambda: proxies)
    monkeypatch.setattr(socket, "getaddrinfo", no_host)
    with pytest.raises(CheckpointError) as error:
        load_raft(CPU, RunLog())
    for part in ("--flow raft", "there is no connection", "raft_large_C_T_SKHT_V2", str(torch_cache), "--flow dis"):
        assert part in str(error.value)
    assert not torch_cache.exists()


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("refused"),
        RuntimeError("invalid hash value"),
        http.client.IncompleteRead(b"", 9),
        TimeoutError("timed out"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
)
def test_a_download_that_fails_says_why(torch_cache, monkeypatch, failure):
    def fail(*_: object, **__: object) -> None:
        raise failure

    log = Log()
    monkeypatch.setattr(flow_raft, "_known_host", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(
        CheckpointError, match="the download failed: .*(refused|invalid hash|IncompleteRead|timed out|No space)"
    ):
        load_raft(CPU, log)
    assert len(log.said) == 1 and "licence" in log.said[0] and "MB" in log.said[0]


def test_a_download_is_checked_against_the_hash_in_its_name(torch_cache, monkeypatch):
    asked = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url.rsplit("/", 1)[1], hash_prefix, progress))
        torch.save(raft_large(weights=None).state_dict(), path)

    monkeypatch.setattr(flow_raft, "_known_host", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    load_raft(CPU, RunLog())
    load_raft(CPU, RunLog())
    assert asked == [(torch_cache.name, "ff5fadd5", False)]


def test_auto_is_dis_on_a_cpu_even_with_weights(torch_cache):
    torch_cache.touch()
    log = Log()
    assert isinstance(choose_flow("auto", CPU, log), DISFlow)
    assert log.said == ["optical flow: opencv-dis"]


def test_auto_on_a_gpu_is_raft_whether_or_not_it_is_here(torch_cache, monkeypatch):
    fetched = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        fetched.append(url)
        torch.save(raft_large(weights=None).state_dict(), path)

    monkeypatch.setattr(flow_raft, "_known_host", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        log = Log()
        assert isinstance(choose_flow("auto", GPU, log), RAFTFlow)
        assert log.said[-1] == "optical flow: torchvision-raft-large" and not log.warnings
    assert len(fetched) == 1


def test_auto_on_a_gpu_without_network_says_what_it_takes(torch_cache, monkeypatch):
    monkeypatch.setattr(flow_raft.urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", no_host)
    log = Log()
    assert isinstance(choose_flow("auto", GPU, log), DISFlow)
    assert len(log.warnings) == 1 and "weights fetch raft" in log.warnings[0] and "no connection" in log.warnings[0]
    with pytest.raises(CheckpointError, match="no connection"):
        choose_flow("raft", GPU, log)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_fetch_brings_raft_where_it_is_used(torch_cache, monkeypatch, capsys, device):
    torch.save(raft_large(weights=None).state_dict(), torch_cache)
    monkeypatch.setattr("easi3r_ns.network.compute.choose_compute", lambda *_: Compute(torch.device(device)))
    cli.main(["weights", "fetch", "tiny"])
    assert (str(torch_cache) in capsys.readouterr().out) == (device == "meta")
    cli.main(["weights", "fetch", "raft"])
    assert capsys.readouterr().out.strip() == str(torch_cache)


def test_names():
    assert isinstance(choose_flow("dis", GPU, RunLog()), DISFlow)
    with pytest.raises(InputError, match="auto, dis or raft"):
        choose_flow("sift", CPU, RunLog())
    assert Easi3RConfig().flow == "auto" and AlignConfig().flow_weight is None
    assert get_args(get_type_hints(Easi3RConfig)["flow"]) == ("auto", *ESTIMATORS)


def test_a_run_takes_the_estimator_that_was_asked_for(monkeypatch):
    clip = make_clip(20_003, "held_out", 3)
    torch.manual_seed(0)
    random = RAFTFlow(raft_small(weights=None), CPU)
    monkeypatch.setitem(ESTIMATORS, "raft", lambda compute, log: random)

    def flow_of(name: str, weight: float) -> str | None:
        log, config = Log(), AlignConfig(iterations=2, flow_weight=weight)
        options = Easi3RConfig(flow=name, graph="complete", no_masks=True, device="cpu")
        scene = reconstruct(frames_of(clip), DraggedStandIn(clip), options, config, StageCache(None), log)
        assert [line for line in log.said if line.startswith("optical flow: ")] == [
            f"optical flow: {name}" for name in [scene.provenance["flow"]] if name
        ]
        return scene.provenance["flow"]

    assert flow_of("raft", 0.1) == "torchvision-raft-large"
    assert flow_of("auto", 0.1) == "opencv-dis"
    assert flow_of("raft", 0.0) is None


def test_weights_that_cannot_be_had_are_said_before_the_network_runs(torch_cache, monkeypatch):
    monkeypatch.setattr(flow_raft, "_known_host", lambda url: False)
    monkeypatch.setattr(flow_raft.urllib.request, "getproxies", dict)
    clip = make_clip(20_003, "held_out", 3)
    stand_in = DraggedStandIn(clip)
    config = Easi3RConfig(flow="raft", graph="complete", no_masks=True, device="cpu")
    with pytest.raises(CheckpointError, match="no connection"):
        reconstruct(frames_of(clip), stand_in, config, AlignConfig(), StageCache(None), RunLog())
    assert stand_in.encoded == 0
