"""Which views see the points of a frame: bounds the count of comparisons in a long clip."""

from __future__ import annotations

import torch

PROBES = 8
"""A frame is represented by a regular grid of this many pixels per side."""


def views_of_frames(
    depth: torch.Tensor, R: torch.Tensor, centre: torch.Tensor, K: torch.Tensor, most: int
) -> list[list[int]]:
    """Per frame the other views that see most of it, at most ``most``, in increasing order.

    What counts is how many probes, pixels of a regular grid with a known depth, project into a view's image. Of views
    with equal counts the nearer in time is taken. ``depth``: (F, H, W), 0 where unknown; ``R`` (F, 3, 3), ``centre``
    (F, 3): camera-to-world; ``K``: (F, 3, 3) for integer pixel centres.
    """
    frames, height, width = depth.shape
    if frames - 1 <= most:
        return [[j for j in range(frames) if j != i] for i in range(frames)]
    rows, cols = (_probe_lines(size, depth.device) for size in (height, width))
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten(), torch.ones_like(x.flatten())]).to(depth)
    P = K @ R.transpose(1, 2)
    shift, back = P @ centre[..., None], torch.linalg.inv_ex(K).inverse
    counts = []
    for i in range(frames):
        z = depth[i][rows[:, None], cols].flatten()
        points = torch.addmm(centre[i, :, None], R[i] @ back[i], pixels * z)
        seen = P @ points - shift
        u, v = (seen[:, :2] / seen[:, 2:]).unbind(dim=1)
        inside = (z > 0) & (seen[:, 2] > 0) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        counts.append(inside.sum(dim=1))
    # One number to sort by: more probes first, then nearer in time.
    numbers = torch.arange(frames)
    ranks = torch.stack(counts).cpu() * frames - (numbers[:, None] - numbers).abs()
    ranks.fill_diagonal_(-frames)
    return [sorted(torch.topk(rank, most).indices.tolist()) for rank in ranks]


def _probe_lines(size: int, device: torch.device) -> torch.Tensor:
    """(PROBES,) rows or columns in the middles of equal parts of ``size`` pixels."""
    return ((torch.arange(min(PROBES, size), device=device) + 0.5) * size / min(PROBES, size)).long()
