"""Losses and metrics over the kept (static) pixels; masked pixels change neither value nor gradient.

Images are (H, W, 3) in [0, 1]; ``kept`` is (H, W) bool, True where the scene is static. The caller gives the value of a
mean over no pixel: 0 for a loss, NaN for a metric.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_msssim import SSIM
from pytorch_msssim.ssim import gaussian_filter

NEAREST_DEPTH = 0.01
"""Scene units: splatfacto's near plane. A rendered depth below it stands for an empty pixel."""


def kept_mean(values: torch.Tensor, kept: torch.Tensor, if_none: float) -> torch.Tensor:
    """Mean of (H, W) or (H, W, C) ``values`` over ``kept``; ``if_none`` where nothing is kept (gradient 0)."""
    kept = kept if values.ndim == 2 else kept[..., None]
    total = torch.where(kept, values, 0.0).sum()
    count = kept.expand_as(values).sum()
    return torch.where(count > 0, total / count.clamp(min=1), total + if_none)


def l1(rendered: torch.Tensor, truth: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Mean absolute colour difference over the kept pixels; 0 where nothing is kept."""
    return kept_mean((rendered - truth).abs(), kept, if_none=0.0)


def psnr(rendered: torch.Tensor, truth: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB over the kept pixels; NaN where nothing is kept."""
    return -10 * kept_mean((rendered - truth).square(), kept, if_none=float("nan")).log10()


def complete_windows(kept: torch.Tensor, size: int) -> torch.Tensor:
    """(H, W) -> (H - size + 1, W - size + 1) bool: True for the windows in which every pixel is kept."""
    if min(kept.shape) < size:
        return kept.new_zeros([max(length - size + 1, 0) for length in kept.shape])
    return F.max_pool2d((~kept).float()[None, None], size, stride=1)[0, 0] == 0


def ssim_map(rendered: torch.Tensor, truth: torch.Tensor, ssim: SSIM) -> torch.Tensor:
    """(H - size + 1, W - size + 1) structural similarity of every window inside the image, averaged over colours.

    Its mean is ``ssim(truth, rendered)``; window and constants are those of ``ssim``.
    """
    size = ssim.win.shape[-1]
    if min(rendered.shape[:2]) < size:
        return rendered.new_zeros([max(length - size + 1, 0) for length in rendered.shape[:2]])
    x, y = (image.permute(2, 0, 1) for image in (rendered, truth))
    moments = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = gaussian_filter(moments, ssim.win.to(x))
    c1, c2 = ((k * ssim.data_range) ** 2 for k in ssim.K)
    variances = (mean_xx - mean_x.square()) + (mean_yy - mean_y.square())
    structure = (2 * (mean_xy - mean_x * mean_y) + c2) / (variances + c2)
    return ((2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1) * structure).mean(dim=0)


def mean_ssim(
    rendered: torch.Tensor, truth: torch.Tensor, kept: torch.Tensor, ssim: SSIM, if_none: float
) -> torch.Tensor:
    """Mean structural similarity over the windows in which EVERY pixel is kept; ``if_none`` where there is none.

    A window with a masked pixel is left out rather than computed from its kept part (normalised convolution): a window
    of few pixels has little variance and is similar to anything, and without it all remaining values equal those of the
    unmasked metric. Pixels within half a window of a mask are therefore covered by the L1 term only.
    """
    hidden = ~kept[..., None]
    values = ssim_map(rendered.masked_fill(hidden, 0.0), truth.masked_fill(hidden, 0.0), ssim)
    return kept_mean(values, complete_windows(kept, ssim.win.shape[-1]), if_none)


def log_depth_error(rendered: torch.Tensor, measured: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Mean of |log rendered - log measured| over the kept pixels with a measured depth (> 0); 0 where there is none.

    Both are (H, W) z-depths in the same units. Ratios are compared and not differences, because the scale of the scene
    is arbitrary and the error of a reconstructed depth grows with the distance.
    """
    known = kept & (measured > 0)
    ratio = torch.where(known, rendered, 1.0).clamp(min=NEAREST_DEPTH) / torch.where(known, measured, 1.0)
    return kept_mean(ratio.log().abs(), known, if_none=0.0)
