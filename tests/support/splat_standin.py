"""What splatfacto needs from a GPU or the network, replaced so that its own code runs on the CPU: a slow rasteriser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

LPIPS = 0.123
"""What the perceptual measure answers here; its weights would be downloaded."""


class FixedLPIPS(torch.nn.Module):
    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        return torch.tensor(LPIPS)


def rasterize(
    *,
    means: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    colors: torch.Tensor,
    viewmats: torch.Tensor,
    Ks: torch.Tensor,
    width: int,
    height: int,
    render_mode: str,
    sh_degree: int | None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """``gsplat.rasterization`` of round Gaussians with plain colours (sh_degree 0), every one on every pixel."""
    assert sh_degree is None and colors.shape == means.shape
    local = means @ viewmats[0, :3, :3].T + viewmats[0, :3, 3]
    z = local[:, 2]
    safe = z.clamp(min=0.01)
    K = Ks[0]
    means2d = (local[:, :2] / safe[:, None] * torch.stack([K[0, 0], K[1, 1]]) + K[:2, 2])[None]
    radii = K[0, 0] * scales.mean(dim=-1) / safe + 0.3
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    order = torch.argsort(z)
    distance = (torch.stack([x, y], dim=-1)[:, :, None] - means2d[0, order]).square().sum(dim=-1)
    alpha = (opacities * (z > 0.01))[order] * torch.exp(-0.5 * distance / radii[order] ** 2)
    alpha = alpha.clamp(max=0.99)
    passed = torch.cumprod(1 - alpha, dim=-1)
    weights = alpha * torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], dim=-1)
    total = weights.sum(dim=-1, keepdim=True)
    render = weights @ colors[order]
    if render_mode == "RGB+ED":
        render = torch.cat([render, weights @ z[order, None] / total.clamp(min=1e-10)], dim=-1)
    info = {"means2d": means2d, "radii": radii[None] * (z > 0.01), "gaussian_ids": None, "n_cameras": 1}
    return render[None], total[None], info | {"width": width, "height": height}


@contextmanager
def without_gpu() -> Iterator[None]:
    """splatfacto on the CPU: use with ``use_absgrad=False`` and ``sh_degree=0``."""
    with (
        mock.patch("nerfstudio.models.splatfacto.rasterization", rasterize),
        mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", FixedLPIPS),
        mock.patch("torch.Tensor.cuda", lambda tensor, *_: tensor),
        mock.patch("torch._dynamo.config.disable", True),
    ):
        yield
