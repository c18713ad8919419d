"""Optical flow of a pair of frames, there and back, and whether it can be followed."""

from __future__ import annotations

import numpy as np
import torch

from ..flow.provider import FlowProvider, forward_backward_consistent

Both = tuple[np.ndarray, np.ndarray]


def both_ways(images: np.ndarray, provider: FlowProvider) -> tuple[Both, Both]:
    """Flows (H, W, 2) between two images (2, H, W, 3), there and back, and where each agrees with the other (H, W)."""
    fields = provider.flow(images, images[[1, 0]])
    there = torch.from_numpy(fields).permute(0, 3, 1, 2)
    agree = forward_backward_consistent(there, there.flip(0)).numpy()
    return (fields[0], fields[1]), (agree[0], agree[1])
