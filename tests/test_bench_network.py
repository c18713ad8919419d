"""The textbook twin of the benchmark computes what the pipeline computes, and the benchmark runs."""

from __future__ import annotations

import io

import numpy as np
import torch
from rich.console import Console

from easi3r_ns.inference import Compute, decode_pairs, encode_frames, normalise
from easi3r_ns.pairs import make_pairs
from tests.bench.bench_network import SIZES, compare, random_model, show, total
from tests.bench.textbook import run_pass

CPU = torch.device("cpu")


def test_twin_and_pipeline_agree():
    config, (height, width) = SIZES["toy"]
    model, graph, compute = random_model(config, CPU), make_pairs("swin-2-noncyclic", 4), Compute(CPU)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    grid = model.token_grid(height, width)
    tokens = rng.random((4, *grid)) < 0.3
    features = encode_frames(model, images, compute, lambda steps: None)
    for masks in (None, tokens):
        ours, stats = decode_pairs(model, features, graph, grid, masks, compute, lambda steps: None)
        twin = run_pass(model, normalise(images, CPU), graph.edges, masks)
        torch.testing.assert_close(ours.points_j, torch.stack(twin.points_j), atol=1e-4, rtol=1e-4)
        for name in ("mean_src", "std_src", "mean_ref", "std_ref"):
            np.testing.assert_allclose(getattr(stats, name), getattr(twin.stats, name), atol=1e-4)


def test_table_has_a_row_per_stage_and_their_sum():
    result = compare("toy", 3, 2, Compute(CPU))
    assert [row.stage for row in result.ours] == ["encode", "pass 1", "masks", "pass 2"]
    assert result.num_pairs > result.twin_pairs > 0
    assert total("ours", result.ours).operations < total("twin", result.twin).operations
    console = Console(width=110, record=True, file=io.StringIO())
    show(result, "toy", console)
    assert "ours / twin" in console.export_text()
