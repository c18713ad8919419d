"""First-order solver of the alignment: Adam over all unknowns, as in DUSt3R and MonST3R.

Sources: DUSt3R (arXiv:2312.14132) section 3.4, MonST3R (arXiv:2410.03825) section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ...core.config import AlignConfig
from ...core.errors import AlignmentError
from .. import terms
from ..problem import Problem
from ..state import State, decode

ADAM_BETAS = (0.9, 0.9)


def learning_rate(config: AlignConfig, iteration: int) -> float:
    """Step size of an iteration, counted from 0."""
    t = iteration / config.iterations
    high, low = config.learning_rate, config.learning_rate_min
    if config.schedule == "cosine":
        return low + (high - low) * (1 + math.cos(t * math.pi)) / 2
    return (1 - t) * high + t * low


def flow_is_on(config: AlignConfig, iteration: int) -> bool:
    """Whether the flow term takes part in an iteration, counted from 0."""
    return config.flow_strength > 0 and iteration >= config.iterations * config.flow_start


def objective(
    state: State, problem: Problem, config: AlignConfig, log_depth_prior: torch.Tensor | None, with_flow: bool
) -> torch.Tensor:
    """Weighted sum of the terms (scalar).

    ``log_depth_prior``: (F, P), None leaves the term out; ``with_flow``: whether the flow term takes part, unless its
    value exceeds ``config.flow_threshold``.
    """
    decoded = decode(state, problem.sample.xy, problem.principal_point)
    total = terms.pairwise_term(decoded, problem.points, problem.weight, problem.edges)
    if config.smooth_weight > 0:
        total = total + config.smooth_weight * terms.smoothness_term(decoded, config.smooth_translation_weight)
    if config.depth_weight > 0 and log_depth_prior is not None:
        total = total + config.depth_weight * terms.depth_term(state.log_depth, log_depth_prior, None)
    if with_flow and problem.flows:
        flow = terms.flow_value(decoded, problem)
        # Too large a value means that the cameras are still wrong, and its gradient would only disturb them.
        total = total + config.flow_strength * torch.where(flow > config.flow_threshold, 0.0, flow)
    return total


def optimise(
    problem: Problem, start: State, config: AlignConfig, fixed_focal: bool, advance: Callable[[int], None]
) -> tuple[State, np.ndarray]:
    """Run ``config.iterations`` steps; returns the final state and the (steps,) objective at the start of each.

    ``start``: its log-depths are also the depth prior; ``fixed_focal``: keep the focal lengths of ``start``;
    ``advance``: called with the count of finished steps. Raises :class:`AlignmentError` when the loss stops being
    finite.
    """
    state = start.map(lambda x: x.detach().clone().requires_grad_(True))
    if fixed_focal:
        state = replace(state, focal=start.focal.detach())
    free = [x for x in state.tensors().values() if x.requires_grad]
    adam = torch.optim.Adam(free, lr=config.learning_rate, betas=ADAM_BETAS)
    values: list[torch.Tensor] = []
    for iteration in range(config.iterations):
        adam.param_groups[0]["lr"] = learning_rate(config, iteration)
        adam.zero_grad(set_to_none=True)
        loss = objective(state, problem, config, start.log_depth, flow_is_on(config, iteration))
        loss.backward()
        adam.step()
        values.append(loss.detach())
        advance(1)
    curve = torch.stack(values).cpu().double().numpy() if values else np.zeros(0)
    final = state.map(torch.Tensor.detach)
    if not np.isfinite(curve).all() or not all(bool(torch.isfinite(x).all()) for x in final.tensors().values()):
        raise AlignmentError("the alignment diverged (loss is not finite): lower the learning rate")
    return final, curve
