"""The network stage on golden frames: graph, batching, both passes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from easi3r_ns.core.errors import CheckpointError, InputError
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.types import PairGraph
from easi3r_ns.motion.attention.masks import token_masks
from easi3r_ns.network.compute import Compute, normalise
from easi3r_ns.network.costs import start_bytes
from easi3r_ns.network.inference import (
    FrameStarts,
    PairNetwork,
    _AsyncWriter,
    encode_frames,
    silence_for,
    visiting_order,
)
from easi3r_ns.network.model import PairAttention, PairOutput
from tests.support.helpers import golden_model, load_golden
from tests.support.pretend_gpu import install_gpu
from tests.support.twins import collect_attention, decode_pairs

CPU = torch.device("cpu")


def ignore(steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def golden_run():
    """Model, features of the golden frames, graph and grid."""
    model = golden_model("tiny_dpt")
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(load_golden("pipeline", "frames")["imgs"]))
    graph = make_pairs("swinstride-5-noncyclic", 8)
    return model, features, graph, (6, 8)


def test_pass_1_from_frames_to_golden_statistics(golden_run):
    golden = load_golden("pipeline", "pass1")
    model, features, graph, grid = golden_run
    assert {tuple(e) for e in golden["edges"].tolist()} == {tuple(e) for e in graph.edges.tolist()}
    np.testing.assert_allclose(features.unflatten(1, grid).numpy(), golden["features"], atol=1e-4)
    stats = collect_attention(model, features, graph, grid, Compute(CPU, batch_size=5), ignore)
    for ours, theirs in (("mean_src", "i_mean"), ("std_src", "i_std"), ("mean_ref", "j_mean"), ("std_ref", "j_std")):
        np.testing.assert_allclose(getattr(stats, ours), golden[f"agg_k_{theirs}"], atol=1e-4)


def test_pass_2_from_frames_to_golden_statistics_and_points(golden_run):
    golden = load_golden("pipeline", "pass2")
    model, features, graph, grid = golden_run
    masks = token_masks(load_golden("pipeline", "pass1")["masks"], 16)
    predictions, stats = decode_pairs(model, features, graph, grid, masks, Compute(CPU), ignore)
    for ours, theirs in (("mean_src", "i_mean"), ("std_src", "i_std"), ("mean_ref", "j_mean"), ("std_ref", "j_std")):
        np.testing.assert_allclose(getattr(stats, ours), golden[f"agg_k_{theirs}"], atol=1e-4)
    row = graph.edges.tolist().index(golden["edges"][0].tolist())
    pairs = (("points_i", "pts3d"), ("conf_i", "conf"), ("points_j", "pts3d_in_other_view"), ("conf_j", "conf2"))
    for ours, theirs in pairs:
        value = getattr(predictions, ours)[row].numpy()
        np.testing.assert_allclose(value, golden[f"first_edge_{theirs}"], atol=1e-3, rtol=1e-3)


def test_every_frame_is_encoded_once_whatever_the_batch(golden_run):
    model = golden_run[0]
    images = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    encoded = []
    small = encode_frames(model, images, Compute(CPU, batch_size=2), encoded.append)
    assert encoded == [2, 2, 1]
    torch.testing.assert_close(small, encode_frames(model, images, Compute(CPU, batch_size=5), ignore))


def test_batches_of_pairs_do_not_change_the_result(golden_run):
    model, features, _, grid = golden_run
    graph = PairGraph(np.array([(0, 1), (1, 0), (2, 1), (1, 2), (0, 2), (2, 0)]), 3)
    masks = np.random.default_rng(0).random((3, *grid)) < 0.2
    one = decode_pairs(model, features[:3], graph, grid, masks, Compute(CPU, batch_size=1), ignore)
    four = decode_pairs(model, features[:3], graph, grid, masks, Compute(CPU, batch_size=4), ignore)
    torch.testing.assert_close(one[0].points_j, four[0].points_j, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(one[1].std_src, four[1].std_src, atol=1e-4)


class Limited:
    """A model that is out of memory above ``most`` rows a call."""

    def __init__(self, model, most: int, error: Exception) -> None:
        self.model, self.most, self.error, self.calls = model, most, error, []
        self.config, self.token_grid, self.downstream_head1 = model.config, model.token_grid, model.downstream_head1

    def __getattr__(self, name: str):
        if name == "start":
            return self.model.start

        def call(starts, *arguments):
            self.calls.append(len(starts[0].memory))
            if self.calls[-1] > self.most:
                raise self.error
            return getattr(self.model, name)(starts, *arguments)

        return call


OUT_OF_MEMORY = (torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory"))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "mps"])
def test_out_of_memory_halves_the_batch_and_loses_nothing(golden_run, error):
    model, features, graph, grid = golden_run
    compute, limited, steps = Compute(CPU, batch_size=8), Limited(model, 3, error), []
    predictions, stats = decode_pairs(limited, features, graph, grid, None, compute, steps.append)
    assert limited.calls[:4] == [8, 4, 2, 2] and max(limited.calls[2:]) == 2
    assert sum(steps) == len(graph)
    expected, expected_stats = decode_pairs(model, features, graph, grid, None, compute, ignore)
    torch.testing.assert_close(predictions.points_j, expected.points_j, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(stats.std_ref, expected_stats.std_ref, atol=1e-4)
    again = collect_attention(Limited(model, 1, error), features, graph, grid, compute, ignore)
    np.testing.assert_allclose(again.std_ref, expected_stats.std_ref, atol=1e-4)


def test_a_pair_that_never_fits_is_said(golden_run):
    model, features, graph, grid = golden_run
    with pytest.raises(InputError, match="does not fit"):
        collect_attention(Limited(model, 0, OUT_OF_MEMORY[0]), features, graph, grid, Compute(CPU), ignore)
    with pytest.raises(RuntimeError, match="shapes"):
        collect_attention(Limited(model, 0, RuntimeError("shapes")), features, graph, grid, Compute(CPU), ignore)


def test_a_gpu_takes_what_fits_its_free_memory(monkeypatch):
    gpu = Compute(torch.device("cuda"))
    install_gpu(monkeypatch, free=2**30)
    assert gpu.batch_for(576, item_bytes=2**27) == 4
    assert gpu.batch_for(576, item_bytes=2**20) == 16384 // 576
    assert gpu.batch_for(576, item_bytes=2**40) == 1
    assert Compute(torch.device("cuda"), batch_size=7).batch_for(576, 2**40) == 7
    assert Compute(CPU).batch_for(576, 1) == 1


def test_images_are_normalised_to_plus_minus_one():
    image = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    np.testing.assert_allclose(normalise(image, CPU)[0, :, 0, 0], [-1, 1, -0.6], atol=1e-6)


def test_on_a_gpu_results_are_written_once_they_have_arrived(monkeypatch):
    """The copies of a call travel during the next one; nothing is written before its event has come."""
    seen = []

    class Event:
        def record(self) -> None:
            seen.append("sent")

        def synchronize(self) -> None:
            seen.append("arrived")

    class Store:
        dtype = torch.float16

        def write(self, rows, values) -> None:
            seen.append((rows.tolist(), values["conf_i"].dtype))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(_AsyncWriter, "_to_host", lambda self, value: value)
    writer, ones = _AsyncWriter(Store(), torch.device("cuda")), torch.ones(1, 2, 2)
    points = ones[..., None].expand(-1, -1, -1, 3)
    output = PairOutput(points, ones, points, ones, PairAttention(ones, ones))
    writer.write(np.array([4]), output)
    assert seen == ["sent"]
    writer.write(np.array([7]), output)
    assert seen[1:] == ["sent", "arrived", ([4], torch.float16)]
    writer.flush()
    writer.flush()
    assert seen[4:] == ["arrived", ([7], torch.float16)]


def test_nan_from_the_network_is_an_error(golden_run):
    _, features, _, grid = golden_run
    model = golden_model("tiny_dpt")
    torch.nn.init.constant_(model.downstream_head1.dpt.head[4].bias, float("nan"))
    graph = PairGraph(np.array([(0, 1), (1, 0)]), 2)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        decode_pairs(model, features[:2], graph, grid, None, Compute(CPU), ignore)


@pytest.mark.parametrize("edges", ["swinstride-5-noncyclic", "complete", "oneref-0"])
@pytest.mark.parametrize("block", [1, 4, 32])
def test_every_pair_is_visited_once(edges, block):
    graph = make_pairs(edges, 23)
    assert sorted(visiting_order(graph.edges, block).tolist()) == list(range(len(graph)))


def test_a_frame_is_started_few_times_and_nothing_changes(golden_run, monkeypatch):
    model, features, _, grid = golden_run
    graph, started = make_pairs("swinstride-5-noncyclic", 8), []
    start = type(model).start

    def counted(self, rows, *args, **kwargs):
        started.append(len(rows))
        return start(self, rows, *args, **kwargs)

    monkeypatch.setattr(type(model), "start", counted)
    masks = np.random.default_rng(0).random((8, *grid)) < 0.2
    one = start_bytes(model.config, grid, heads=True)
    monkeypatch.setattr("easi3r_ns.network.inference.CPU_START_BYTES", one)
    plain = decode_pairs(model, features, graph, grid, masks, Compute(CPU, batch_size=1), ignore)
    few, started[:] = sum(started), []
    monkeypatch.setattr("easi3r_ns.network.inference.CPU_START_BYTES", 9 * one)
    kept = decode_pairs(model, features, graph, grid, masks, Compute(CPU, batch_size=1), ignore)
    assert sum(started) == 2 * 8 < few < 2 * len(graph)
    for name in ("points_i", "conf_i", "points_j", "conf_j"):
        assert torch.equal(getattr(plain[0], name), getattr(kept[0], name))
    np.testing.assert_allclose(plain[1].std_src, kept[1].std_src, atol=1e-5)
    frames = FrameStarts(PairNetwork(model, features, grid, Compute(CPU)), heads=True)
    frames.of(graph.edges)
    assert sum(started) == 4 * 8
    held = [len(view) for view in frames._kept]
    assert held[0] <= frames.block and held[1] == 1, "what is kept is bounded"


def test_nothing_is_silenced_where_nothing_moves(golden_run, monkeypatch):
    model, features, graph, grid = golden_run
    still, moving = np.zeros((8, *grid), dtype=bool), torch.zeros(8, 48, dtype=torch.bool)
    moving[3, :5] = True
    assert silence_for(moving, np.array([(3, 0), (1, 2)]), CPU) is None, "only moving KEYS are silenced"
    assert silence_for(moving, np.array([(3, 0), (1, 3)]), CPU).most_dynamic == 5
    monkeypatch.setattr("easi3r_ns.network.blocks.attend_silenced", None)  # an error when called
    a, _ = decode_pairs(model, features, graph, grid, still, Compute(CPU), ignore)
    b, _ = decode_pairs(model, features, graph, grid, None, Compute(CPU), ignore)
    assert torch.equal(a.points_i, b.points_i)


def test_features_of_half_precision_in_a_file_serve_as_well(golden_run):
    model, features, graph, grid = golden_run
    full = collect_attention(model, features, graph, grid, Compute(CPU), ignore)
    half = collect_attention(model, features.half(), graph, grid, Compute(CPU), ignore)
    np.testing.assert_allclose(half.mean_src, full.mean_src, atol=1e-2)
    assert (half.mean_src != full.mean_src).any()


def test_large_results_are_kept_in_half_precision(golden_run, monkeypatch):
    model, features, _, grid = golden_run
    graph = PairGraph(np.array([(0, 1), (1, 0)]), 2)
    full, _ = decode_pairs(model, features[:2], graph, grid, None, Compute(CPU), ignore)
    monkeypatch.setattr("easi3r_ns.network.inference.FULL_PRECISION_LIMIT", 1)
    half, _ = decode_pairs(model, features[:2], graph, grid, None, Compute(CPU), ignore)
    assert half.points_i.dtype == torch.float16
    torch.testing.assert_close(half.points_i.float(), full.points_i, rtol=1e-3, atol=1e-3)


def test_low_precision_stays_close(golden_run):
    model, features, graph, grid = golden_run
    full = collect_attention(model, features, graph, grid, Compute(CPU), ignore)
    low = collect_attention(model, features, graph, grid, Compute(CPU, torch.bfloat16), ignore)
    for name in (f.name for f in dataclasses.fields(full)):
        scale = np.abs(getattr(full, name)).max()
        np.testing.assert_allclose(getattr(low, name) / scale, getattr(full, name) / scale, atol=0.05)
