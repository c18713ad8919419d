"""Optical flow of pairs: direction, units, every pair once, the forward-backward check, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import PairGraph
from easi3r_ns.motion.flow import provider as flow
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.flow.provider import FlowProvider, forward_backward_consistent, pair_flow

GRAPH = PairGraph(np.array([[0, 1], [1, 0], [1, 2], [2, 1]]), 3)


def texture(size: tuple[int, int], shift: tuple[float, float]) -> np.ndarray:
    """(H, W, 3) smooth random texture moved by (dx, dy) pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    waves = rng.normal(0, 0.35, (20, 2))
    phases = rng.uniform(0, 6.3, 20)
    value = sum(np.sin((x - shift[0]) * a + (y - shift[1]) * b + p) for (a, b), p in zip(waves, phases, strict=True))
    return np.repeat(((value / 20 + 1) * 127).astype(np.uint8)[..., None], 3, axis=-1)


class Recorder:
    """A provider that answers with the frames' numbers and keeps count."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        pairs = [(int(a.flat[0]), int(b.flat[0])) for a, b in zip(source, target, strict=True)]
        self.calls += pairs
        field = np.zeros((*source.shape[:3], 2), np.float32)
        for k, (a, b) in enumerate(pairs):
            field[k] = (10 * a, b)
        return field


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (48, 64), (16, 32)])
def test_dis_finds_the_shift_in_both_directions(size):
    step = np.array([2.0, -1.0]) if min(size) > 20 else np.array([1.0, 0.0])
    images = np.stack([texture(size, tuple(step * k)) for k in range(3)])
    result = pair_flow(images, GRAPH, DISFlow(), RunLog())
    median = result.flow.float().flatten(2).median(dim=2).values.numpy()
    np.testing.assert_allclose(median, np.outer([1, -1, 1, -1], step), atol=0.1)
    assert result.consistent.float().mean() > 0.8
    assert result.provider == "opencv-dis" and isinstance(DISFlow(), FlowProvider)


def test_each_ordered_pair_is_computed_once_and_lies_in_its_row(monkeypatch):
    monkeypatch.setattr(flow, "PAIRS_AT_ONCE", 2)
    graph = PairGraph(np.array([[2, 1], [0, 1], [1, 0], [2, 0], [1, 2], [0, 2]]), 3)
    images = np.zeros((3, 8, 8, 3), np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None]
    provider, log = Recorder(), RunLog()
    result = pair_flow(images, graph, provider, log)
    # A pair and its reverse come in one call: they are checked against each other.
    assert provider.calls == [(0, 1), (1, 2), (1, 0), (2, 1), (0, 2), (2, 0)]
    np.testing.assert_array_equal(
        result.flow[:, :, 0, 0], 10 * graph.edges[:, :1] * [1, 0] + graph.edges[:, 1:] * [0, 1]
    )
    assert result.flow.dtype == torch.float16 and result.flow.shape == (6, 2, 8, 8)
    assert log.stages[0].name == "optical flow"


def test_the_check_pairs_every_row_with_its_reverse():
    images = np.stack([texture((48, 64), (3 * k, 0)) for k in range(3)])
    graph = PairGraph(np.array([[2, 1], [0, 1], [1, 0], [1, 2]]), 3)
    result = pair_flow(images, graph, DISFlow(), RunLog(), dtype=torch.float32)
    for row, back in ((0, 3), (1, 2), (2, 1), (3, 0)):
        naive = forward_backward_consistent(result.flow[row : row + 1], result.flow[back : back + 1])[0]
        assert torch.equal(result.consistent[row], naive)


def test_a_large_result_goes_into_a_file_that_goes_with_it(tmp_path, monkeypatch):
    images = np.stack([texture((48, 64), (3 * k, 0)) for k in range(3)])
    kept = pair_flow(images, GRAPH, DISFlow(), RunLog(), folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(flow, "SPILL_BYTES", 0)
    spilled = pair_flow(images, GRAPH, DISFlow(), RunLog(), folder=tmp_path / "new")
    assert torch.equal(spilled.flow, kept.flow) and torch.equal(spilled.consistent, kept.consistent)
    assert (tmp_path / "new").is_dir() and not list((tmp_path / "new").iterdir())


def test_consistency_marks_what_is_hidden():
    """A square moves right over a still background: what it covers in the second frame has no way back."""
    forward, backward = torch.zeros(1, 2, 40, 60), torch.zeros(1, 2, 40, 60)
    forward[:, 0, 10:30, 10:30] = 8
    backward[:, 0, 10:30, 18:38] = -8
    ok = forward_backward_consistent(forward, backward)[0]
    assert ok[12:28, 12:28].all() and ok[:9].all()
    assert not ok[12:28, 31:37].any()


def test_consistency_refuses_what_leaves_the_image_and_opposite_errors():
    forward = torch.zeros(1, 2, 20, 20)
    forward[:, 0] = 6
    assert not forward_backward_consistent(forward, -forward)[0, :, 14:].any()
    assert forward_backward_consistent(forward, -forward)[0, :, :13].all()
    # errors of +5 and -5 in x and y must not cancel each other
    wrong = -forward + torch.tensor([5.0, -5.0]).view(1, 2, 1, 1)
    assert not forward_backward_consistent(forward, wrong)[0, :, :13].any()


@pytest.mark.parametrize("bad", [np.zeros((3, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 3), np.uint8)])
def test_bad_images_are_refused(bad):
    with pytest.raises(InputError, match="3 uint8 RGB images"):
        pair_flow(bad, GRAPH, DISFlow(), RunLog())


def test_flow_is_deterministic():
    images = np.stack([texture((96, 128), (k, 0)) for k in range(3)])
    first, second = (pair_flow(images, GRAPH, DISFlow(), RunLog()).flow for _ in range(2))
    assert torch.equal(first, second)
