"""The alignment on a pretend GPU: nothing mixes devices, and the result is that of the CPU."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from easi3r_ns.align import align as align_module
from easi3r_ns.align.align import AlignResult
from easi3r_ns.core.config import AlignConfig
from tests.support.align_scene import make_scene, window_graph
from tests.support.pretend_cuda import pretend_cuda

SIZE = (16, 24)
EVERY_TERM = {"flow_weight": 0.05, "smooth_weight": 0.02, "depth_weight": 0.1}


@pytest.mark.parametrize("solver", ["newton", "adam"])
def test_both_solvers_run_with_every_term(solver: Literal["newton", "adam"]) -> None:
    scene = make_scene(num_frames=3, size=SIZE, focal=26.0, graph=window_graph(3, (1, 2)))
    config = AlignConfig(solver=solver, iterations=3, max_pixels=256, **EVERY_TERM)
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, :3] = True

    def result(device: str) -> AlignResult:
        options = {"principal_point": scene.principal_point, "config": config, "flow": scene.flow}
        return align_module.align(scene.predictions, **options, dynamic_masks=masks, device=device)

    with pretend_cuda() as counts:
        ours = result("cuda")
    expected = result("cpu")
    assert counts.launches > 0
    np.testing.assert_allclose(ours.T_world_cam, expected.T_world_cam, atol=1e-4)
    np.testing.assert_allclose(ours.depth, expected.depth, rtol=1e-3)
    np.testing.assert_allclose(ours.focals, expected.focals, rtol=1e-4)
