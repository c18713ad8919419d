"""The bench of precision runs and tells precisions apart."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from easi3r_ns.training.measure.motion import make_clip
from tests.bench.bench_precision import CONTROL, SAME_CLUSTERS, measure, relative_distance, show


@pytest.mark.long
def test_low_precision_costs_little_beside_what_clusters_do():
    prices = measure("tiny", "cpu", [make_clip(20_000, "held_out", 6)])
    full, control, low = (prices[name][0] for name in ("fp32", CONTROL, "bf16" + SAME_CLUSTERS))
    assert (full.overlap, full.points, full.path) == (1, 0, 0)
    assert low.overlap > 0.9 and 1e-4 < low.points < 0.01 and low.rotation < 0.5
    assert control.overlap < low.overlap
    console = Console(width=140, record=True, file=io.StringIO())
    show(prices, console)
    assert "mask IoU with fp32" in console.export_text()


def test_relative_distance():
    points = torch.tensor([[[[0.0, 0.0, 2.0], [3.0, 0.0, 4.0]]]])
    moved = points + torch.tensor([0.0, 0.0, 0.5])
    torch.testing.assert_close(relative_distance(moved, points), torch.tensor([0.25, 0.1]))
