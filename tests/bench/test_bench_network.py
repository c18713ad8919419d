"""The textbook twin of the benchmark computes what the pipeline computes, and the benchmark runs."""

from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.motion.attention.statistics import AttentionAccumulator
from easi3r_ns.network.compute import Compute, normalise
from easi3r_ns.network.inference import PairNetwork, encode_frames
from easi3r_ns.network.model import DUSt3R
from tests.bench.bench_network import ORDER, Comparison, compare, markdown, network_total, show
from tests.bench.stages import GRAPH, NETWORKS, Row, Setting, matrix_bytes, scaled
from tests.bench.textbook import run_pass
from tests.support.operations import counted_operations, inference_mode_is_counted
from tests.support.twins import decode_pairs

CPU = torch.device("cpu")


def test_twin_and_pipeline_agree():
    config, (height, width) = NETWORKS["toy"]
    torch.manual_seed(0)
    model = DUSt3R(config).eval().requires_grad_(False)
    graph, compute = make_pairs("swin-2-noncyclic", 4), Compute(CPU)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    grid = model.token_grid(height, width)
    tokens = rng.random((4, *grid)) < 0.3
    features = encode_frames(model, images, compute, lambda steps: None)
    for masks in (None, tokens):
        ours, stats = decode_pairs(model, features, graph, grid, masks, compute, lambda steps: None)
        twin = run_pass(model, normalise(images, CPU), graph.edges, masks)
        for name in ("points_i", "conf_i", "points_j", "conf_j"):
            torch.testing.assert_close(getattr(ours, name), torch.stack(getattr(twin, name)), atol=1e-4, rtol=1e-4)
        theirs = twin.stats(graph.edges, 4)
        for name in ("mean_src", "std_src", "mean_ref", "std_ref"):
            np.testing.assert_allclose(getattr(stats, name), getattr(theirs, name), atol=1e-4)


@pytest.fixture(scope="module")
def toy() -> Comparison:
    setting = Setting(size="toy", frames=6, measured=3, twin_measured=2, twin_iterations=2)
    return compare(setting, in_this_process=True)


@pytest.mark.slow
def test_every_stage_has_a_row(toy):
    assert {row.stage for row in toy.ours} == set(ORDER)
    assert {row.stage for row in toy.twin} == {"pass 1", "pass 2", "statistics", "masks", "alignment"}
    assert all(row.cpu_seconds >= 0 and row.factor >= 1 for row in (*toy.ours, *toy.twin))


def test_operations_are_those_of_the_whole_clip(toy):
    counted = network_total(toy, "twin").operations
    longer = dataclasses.replace(toy.setting, measured=0)
    assert longer.run_frames("ours") == 6 and longer.run_frames("twin") == 2
    # The twin encodes both views of every pair in both passes.
    assert counted > 4 * network_total(toy, "ours").operations / 3
    factors = {row.stage: row.factor for row in toy.ours}
    assert factors["decode"] == factors["alignment"] == 1  # run on all frames
    assert factors["encode"] == 2 and factors["pass 2"] == 18 / 4


@pytest.mark.skipif(not inference_mode_is_counted(), reason="this torch does not count in inference mode")
def test_operations_are_those_that_were_made():
    setting = Setting(size="toy")
    config, grid = setting.network, setting.grid
    model, graph = DUSt3R(config).eval(), make_pairs(GRAPH, 4)
    features, store = torch.randn(4, grid[0] * grid[1], config.enc_embed_dim), SimpleNamespace(dtype=torch.float32)
    store.write = lambda rows, values: None
    network = PairNetwork(model, features, grid, Compute(CPU))
    sink = AttentionAccumulator(4)
    operations = counted_operations(lambda: network.decode(graph.edges, None, store, sink, lambda steps: None))
    row = Row("pass 2", 1.0, 1.0, 0.0, 0.0)
    counted = scaled(row, dataclasses.replace(setting, frames=4, measured=4)).operations
    assert counted == pytest.approx(operations, rel=1e-3)


def test_table_and_text(toy):
    console = Console(width=140, record=True, file=io.StringIO())
    show(toy, console)
    text = console.export_text()
    assert "network stage" in text and "counted, not measured" in text
    assert markdown(toy).count("|\n") >= len(ORDER) + 3


def test_scaling_is_linear():
    row = Row("pass 1", 2.0, 3.0, 10.0, 1000.0, factor=4.0, counted_bytes=500.0)
    toy = Setting(size="toy")
    result = Comparison(toy, (row,), (row, dataclasses.replace(row, stage="pass 2")), 1.0)
    ours, twin = (network_total(result, side) for side in ("ours", "twin"))
    assert (ours.cpu_seconds, ours.operations, ours.peak_bytes) == (12.0, 40.0, 1500.0)
    assert twin.cpu_seconds == 24.0 and twin.peak_bytes == 1500.0
    assert matrix_bytes(Setting()) == 2 * 12 * 12 * 576**2 * 4
