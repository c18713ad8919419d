"""The hand-written terms against their plain autograd twins; parametrisation; learning rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from easi3r_ns.align import terms
from easi3r_ns.align.problem import FlowObservations, sample_pixels
from easi3r_ns.align.state import State, decode, rotation, signed_expm1, signed_log1p

EDGES = torch.tensor([[0, 1], [1, 0], [1, 2], [2, 1], [0, 3], [3, 0], [2, 3], [3, 2]])
SAMPLE = sample_pixels(6, 8, 0)
PRINCIPAL = torch.tensor([[4.0, 3.0], [4.5, 2.5], [4.0, 3.0], [3.0, 3.5]])


def random_state(seed: int = 0) -> State:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    identity = torch.tensor([0.0, 0, 0, 1])
    return State(
        cam_quat=identity + 0.1 * normal(4, 4),
        cam_trans=0.3 * normal(4, 3),
        log_depth=1 + 0.2 * normal(4, 48),
        focal=20 * torch.log(torch.tensor([9.0, 10.0, 11.0, 12.0], dtype=torch.float64)),
        pair_quat=identity + 0.2 * normal(8, 4),
        pair_trans=0.3 * normal(8, 3),
        pair_log_scale=0.3 * normal(8),
    ).map(lambda x: x.double())


def leaves(state: State) -> State:
    return state.map(lambda x: x.clone().requires_grad_(True))


def pairwise_naive(decoded, points, weight, edges):
    total = 0.0
    world = decoded.world_points()
    for view in (0, 1):
        for e, frame in enumerate(edges[:, view].tolist()):
            row = view * len(edges) + e
            aligned = decoded.pair_A[e] @ points[row] + decoded.pair_b[e][:, None]
            total = total + (weight[row] * (world[frame] - aligned).norm(dim=0)).sum()
    return total / (len(edges) * points.shape[-1])


def flow_naive(decoded, xy, principal_point, flow):
    """Lift, move and project every point one pair after the other; torch's own smooth L1."""
    total, count = 0.0, 0
    for d, (i, j) in enumerate(zip(flow.source.tolist(), flow.target.tolist(), strict=True)):
        world = decoded.world_points()[i]
        seen = decoded.R[j].T @ (world - decoded.centre[j][:, None])
        landing = decoded.focal[j] * seen[:2] / seen[2] + principal_point[j][:, None]
        loss = torch.nn.functional.smooth_l1_loss(landing, flow.landing[d], reduction="none")
        keep = (loss < 50) & flow.used[d]
        total, count = total + loss[keep].sum(), count + int(keep.sum())
    return flow.weight * total / count


def random_flow() -> FlowObservations:
    g = torch.Generator().manual_seed(3)
    landing = SAMPLE.xy + 3 * torch.randn(8, 2, 48, generator=g)
    landing[0, :, :5] += 200
    used = torch.rand(8, 48, generator=g) > 0.3
    return FlowObservations(EDGES[:, 0], EDGES[:, 1], landing.double(), used, weight=2.0)


def assert_equal_with_gradients(term, naive) -> None:
    values, grads = [], []
    for function in (term, naive):
        state = leaves(random_state())
        value = function(state, decode(state, SAMPLE.xy.double(), PRINCIPAL.double()))
        value.backward()
        values.append(value.detach())
        grads.append({k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in state.tensors().items()})
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=0)
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key], rtol=2e-4, atol=2e-6, msg=key)


@pytest.mark.parametrize("block", [1, 1 << 19])
def test_pairwise_term_equals_its_naive_twin(block, monkeypatch):
    monkeypatch.setattr(terms, "BLOCK_NUMBERS", block)
    g = torch.Generator().manual_seed(1)
    points = torch.randn(16, 3, 48, generator=g, dtype=torch.float64) + torch.tensor([0, 0, 3.0])[:, None]
    weight = torch.rand(16, 48, generator=g, dtype=torch.float64)
    assert_equal_with_gradients(
        lambda _, now: terms.pairwise_term(now, points, weight, EDGES),
        lambda _, now: pairwise_naive(now, points, weight, EDGES),
    )


@pytest.mark.parametrize("block", [1, 1 << 19])
def test_flow_term_equals_its_naive_twin(block, monkeypatch):
    monkeypatch.setattr(terms, "BLOCK_NUMBERS", block)
    monkeypatch.setattr(terms, "EPS", 1e-12)
    flow, xy, pp = random_flow(), SAMPLE.xy.double(), PRINCIPAL.double()
    assert_equal_with_gradients(
        lambda _, now: terms.flow_term(now, xy, pp, flow), lambda _, now: flow_naive(now, xy, pp, flow)
    )


def test_gradients_are_finite_at_a_perfect_fit():
    """Zero residuals, identical cameras and points in the target's camera plane: where naive norms give NaN."""
    state = random_state()
    same = leaves(State(**{k: torch.zeros_like(v) for k, v in state.tensors().items()}))
    with torch.no_grad():
        same.cam_quat[:, 3] = 1
        same.pair_quat[:, 3] = 1
        same.focal[:] = 20 * np.log(10.0)
        same.pair_log_scale[:] = 0
    now = decode(same, SAMPLE.xy.double(), PRINCIPAL.double())
    points = (now.world_points()[EDGES.T.flatten()] / 0.5).detach()
    pairwise = terms.pairwise_term(now, points, torch.ones(16, 48).double(), EDGES)
    assert float(pairwise.detach()) < 1e-9
    flow = terms.flow_term(now, SAMPLE.xy.double(), PRINCIPAL.double(), random_flow())
    (pairwise + flow + terms.smoothness_term(now, 1.0)).backward()
    assert all(v.grad is None or bool(torch.isfinite(v.grad).all()) for v in same.tensors().values())


def test_flow_without_a_usable_pixel_is_zero():
    flow = random_flow()
    flow.used.zero_()
    now = decode(random_state(), SAMPLE.xy.double(), PRINCIPAL.double())
    assert float(terms.flow_term(now, SAMPLE.xy.double(), PRINCIPAL.double(), flow)) == 0


def test_points_behind_the_target_leave_finite_gradients():
    state = random_state()
    with torch.no_grad():
        state.cam_trans[1] = torch.tensor([0.0, 0.0, 3.0])  # the second camera stands behind what the first sees
    state = leaves(state)
    now = decode(state, SAMPLE.xy.double(), PRINCIPAL.double())
    terms.flow_term(now, SAMPLE.xy.double(), PRINCIPAL.double(), random_flow()).backward()
    assert all(v.grad is None or bool(torch.isfinite(v.grad).all()) for v in state.tensors().values())


def test_depth_term_ignores_a_common_scale():
    log_depth = random_state().log_depth
    assert float(terms.depth_term(log_depth + 0.7, log_depth, None)) == pytest.approx(0, abs=1e-12)
    assert float(terms.depth_term(2 * log_depth, log_depth, None)) > 1e-3


def test_signed_log_is_inverted():
    x = torch.tensor([-50.0, -1.0, 0.0, 1e-4, 3.0], dtype=torch.float64)
    torch.testing.assert_close(signed_expm1(signed_log1p(x)), x)


def test_rotation_ignores_the_length_of_the_quaternion():
    quat = torch.tensor([[0.0, 0.0, 3.0, 3.0]])
    turned = rotation(quat) @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(turned, torch.tensor([[0.0, 1.0, 0.0]]), atol=1e-6, rtol=0)


def test_pair_scales_keep_their_mean():
    now = decode(random_state(), SAMPLE.xy.double(), PRINCIPAL.double())
    assert float(torch.linalg.det(now.pair_A).log().mean() / 3) == pytest.approx(np.log(0.5))


@pytest.mark.parametrize(
    ("size", "budget"), [((288, 512), 16384), ((512, 288), 8192), ((96, 40), 256), ((30, 40), 999)]
)
def test_sample_is_spread_and_within_budget(size, budget):
    height, width = size
    sample = sample_pixels(height, width, budget, seed=1)
    assert budget / 4 < len(sample.index) <= budget
    assert len(torch.unique(sample.index)) == len(sample.index) and not sample.complete
    x, y = sample.xy.long()
    assert torch.equal(y * width + x, sample.index)
    counts = torch.histogramdd(sample.xy.T.double(), bins=[2, 2], range=[0.0, width, 0.0, height]).hist
    assert counts.min() > 0.8 * counts.max()
    assert torch.equal(sample.index, sample_pixels(height, width, budget, seed=1).index)


def test_small_images_are_used_whole():
    assert sample_pixels(48, 64, 16384).complete and sample_pixels(96, 128, 16384).complete
    assert sample_pixels(300, 400, 0).complete
