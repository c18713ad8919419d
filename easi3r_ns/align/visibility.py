"""Which views see the points of a frame: bounds what is compared with what in a long clip."""

from __future__ import annotations

import torch

PROBES = 8
"""Pixels per side of the regular grid that stands for a frame."""


def views_of_frames(
    depth: torch.Tensor, R: torch.Tensor, centre: torch.Tensor, K: torch.Tensor, most: int
) -> list[list[int]]:
    """Per frame the other views, increasing, in whose image most of its probes lie: ``most`` at the most.

    Where there are no more than ``most`` others, these are all of them. Of views that see equally many probes, or none,
    the nearer in time comes first.

    ``depth`` (F, H, W), 0 where unknown; ``R`` (F, 3, 3), ``centre`` (F, 3): camera-to-world; ``K`` (F, 3, 3).
    """
    frames, height, width = depth.shape
    numbers = torch.arange(frames)
    if frames - 1 <= most:
        return [[j for j in range(frames) if j != i] for i in range(frames)]
    rows, cols = (_probe_lines(size) for size in (height, width))
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten(), torch.ones(x.numel())]).to(depth)
    P = K @ R.transpose(1, 2)
    shift = P @ centre[..., None]
    found = []
    for i in range(frames):
        z = depth[i][rows[:, None], cols].flatten()
        points = torch.addmm(centre[i, :, None], R[i] @ torch.linalg.inv(K[i]), pixels * z)[:, z > 0]
        seen = P @ points - shift
        u, v = (seen[:, :2] / seen[:, 2:]).unbind(dim=1)
        inside = (seen[:, 2] > 0) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        count = inside.sum(dim=1)
        # One number to sort by: more probes first, then nearer in time.
        rank = count * frames - (numbers - i).abs()
        rank[i] = -frames
        found.append(sorted(torch.topk(rank, most).indices.tolist()))
    return found


def _probe_lines(size: int) -> torch.Tensor:
    """Rows or columns in the middles of :data:`PROBES` equal parts."""
    return ((torch.arange(min(PROBES, size)) + 0.5) * size / min(PROBES, size)).long()
