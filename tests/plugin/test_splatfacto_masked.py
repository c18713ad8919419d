"""Masked losses and measures: against plain loops, against nerfstudio's own where nothing is masked, known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorch_msssim import SSIM
from skimage.metrics import structural_similarity

from easi3r_ns.plugin.splatfacto.masked import (
    complete_windows,
    kept_mean,
    l1,
    log_depth_error,
    mean_ssim,
    psnr,
    ssim_map,
)

NERFSTUDIOS = SSIM(data_range=1.0, size_average=True, channel=3)


def _images(size=(24, 31), seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    truth = torch.rand(*size, 3, generator=random)
    return (truth + 0.1 * torch.randn(*size, 3, generator=random)).clamp(0, 1), truth


def _mask(size=(24, 31)) -> torch.Tensor:
    kept = torch.ones(size, dtype=torch.bool)
    kept[2:9, 5:12] = False
    kept[20, 30] = False
    return kept


def _ssim_naive(rendered: torch.Tensor, truth: torch.Tensor, kept: torch.Tensor) -> tuple[float, int]:
    """Window by window (Wang et al. 2004, equation 13), the windows that see nothing but kept pixels."""
    offsets = np.arange(11) - 5
    gauss = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(gauss, gauss) / gauss.sum() ** 2
    found = []
    for top in range(kept.shape[0] - 10):
        for left in range(kept.shape[1] - 10):
            window = slice(top, top + 11), slice(left, left + 11)
            if not kept[window].all():
                continue
            for channel in range(3):
                x, y = (image[window][..., channel].double().numpy() for image in (rendered, truth))
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                luminance = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
                found.append(luminance * (2 * cov + 0.03**2) / (vx + vy + 0.03**2))
    return float(np.mean(found)), len(found) // 3


def test_l1_and_psnr_are_means_over_kept_pixels():
    rendered, truth = _images()
    kept = _mask()
    pairs = [
        (rendered[y, x, c].item(), truth[y, x, c].item())
        for y in range(24)
        for x in range(31)
        for c in range(3)
        if kept[y, x]
    ]
    assert l1(rendered, truth, kept).item() == pytest.approx(np.mean([abs(a - b) for a, b in pairs]), rel=1e-5)
    expected = -10 * math.log10(np.mean([(a - b) ** 2 for a, b in pairs]))
    assert psnr(rendered, truth, kept).item() == pytest.approx(expected, rel=1e-5)


def test_known_answers():
    truth = torch.zeros(20, 20, 3)
    rendered = torch.full_like(truth, 0.1)
    kept = torch.ones(20, 20, dtype=torch.bool)
    kept[:, 10:] = False
    rendered[~kept] = 1.0
    assert l1(rendered, truth, kept).item() == pytest.approx(0.1)
    assert psnr(rendered, truth, kept).item() == pytest.approx(20.0, rel=1e-5)
    assert math.isinf(psnr(truth, truth, kept).item())
    assert mean_ssim(truth, truth, torch.ones_like(kept), NERFSTUDIOS, math.nan).item() == pytest.approx(1.0)


def test_ssim_is_that_of_the_wholly_static_windows():
    rendered, truth = _images()
    kept = _mask()
    naive, windows = _ssim_naive(rendered, truth, kept)
    assert 0 < windows < 14 * 21
    assert int(complete_windows(kept, 11).sum()) == windows
    assert mean_ssim(rendered, truth, kept, NERFSTUDIOS, math.nan).item() == pytest.approx(naive, abs=1e-5)


def test_without_a_hidden_pixel_ssim_is_nerfstudios():
    rendered, truth = _images()
    everything = torch.ones(24, 31, dtype=torch.bool)
    ours = mean_ssim(rendered, truth, everything, NERFSTUDIOS, math.nan)
    theirs = NERFSTUDIOS(truth.permute(2, 0, 1)[None], rendered.permute(2, 0, 1)[None])
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    elsewhere = structural_similarity(
        rendered.double().numpy(), truth.double().numpy(), data_range=1.0, channel_axis=2, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ours.item() == pytest.approx(elsewhere, abs=1e-5)


def test_complete_windows_against_a_loop():
    random = np.random.default_rng(3)
    for size in (1, 3, 4, 11):
        kept = torch.from_numpy(random.random((17, 13)) > 0.02)
        expected = [[bool(kept[y : y + size, x : x + size].all()) for x in range(14 - size)] for y in range(18 - size)]
        np.testing.assert_array_equal(complete_windows(kept, size).numpy(), expected)


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan"), float("inf")])
def test_what_is_hidden_changes_nothing(garbage):
    """Neither values nor gradients, in either image."""
    kept = _mask()
    answers = []
    for junk in (0.5, garbage):
        rendered, truth = _images()
        rendered[~kept], truth[~kept] = junk, 1 - junk
        depth, measured = rendered.mean(dim=2) + 0.5, truth.mean(dim=2) + 0.5
        rendered.requires_grad_(), depth.requires_grad_()
        loss = l1(rendered, truth, kept) - mean_ssim(rendered, truth, kept, NERFSTUDIOS, 1.0)
        loss = loss + log_depth_error(depth, measured, kept)
        loss.backward()
        assert (rendered.grad[~kept] == 0).all() and (depth.grad[~kept] == 0).all()
        measures = psnr(rendered, truth, kept), mean_ssim(rendered, truth, kept, NERFSTUDIOS, math.nan)
        answers.append([loss.detach(), rendered.grad, depth.grad, *(m.detach() for m in measures)])
    for plain, odd in zip(*answers):
        assert torch.equal(plain, odd) and torch.isfinite(odd).all()


def test_nothing_kept_is_no_loss_and_no_measure():
    rendered, truth = _images()
    rendered.requires_grad_()
    nothing = torch.zeros(24, 31, dtype=torch.bool)
    losses = [
        l1(rendered, truth, nothing),
        1 - mean_ssim(rendered, truth, nothing, NERFSTUDIOS, if_none=1.0),
        log_depth_error(rendered[..., 0], truth[..., 0], nothing),
    ]
    assert [loss.item() for loss in losses] == [0.0, 0.0, 0.0]
    sum(losses).backward()
    assert torch.equal(rendered.grad, torch.zeros_like(rendered))
    assert math.isnan(psnr(rendered, truth, nothing).item())
    assert math.isnan(mean_ssim(rendered, truth, nothing, NERFSTUDIOS, if_none=math.nan).item())


def test_an_image_smaller_than_a_window_has_no_ssim():
    rendered, truth = _images((10, 40))
    everything = torch.ones(10, 40, dtype=torch.bool)
    assert ssim_map(rendered, truth, NERFSTUDIOS).shape == complete_windows(everything, 11).shape == (0, 30)
    assert math.isnan(mean_ssim(rendered, truth, everything, NERFSTUDIOS, if_none=math.nan).item())
    assert mean_ssim(rendered, truth, everything, NERFSTUDIOS, if_none=1.0).item() == 1.0


def test_depth_term():
    random = torch.Generator().manual_seed(1)
    measured = 0.2 + 5 * torch.rand(12, 9, generator=random)
    measured[4:6] = 0  # unknown
    kept = torch.ones(12, 9, dtype=torch.bool)
    kept[:, 7:] = False
    rendered = measured.clone()
    rendered[4:6] = 123.0
    rendered[:, 7:] = 77.0
    assert log_depth_error(rendered, measured, kept).item() == 0
    assert log_depth_error(2 * rendered, measured, kept).item() == pytest.approx(math.log(2), rel=1e-5)
    # Units cancel: the scene's scale is arbitrary.
    noisy = rendered * (1 + 0.3 * torch.rand(12, 9, generator=random))
    expected = np.mean(
        [
            abs(math.log(noisy[y, x] / measured[y, x]))
            for y in range(12)
            for x in range(9)
            if kept[y, x] and measured[y, x] > 0
        ]
    )
    assert log_depth_error(noisy, measured, kept).item() == pytest.approx(expected, rel=1e-5)
    assert log_depth_error(50 * noisy, 50 * measured, kept).item() == pytest.approx(expected, rel=1e-5)
    # An empty pixel is rendered with depth 0: a finite error and no gradient.
    empty = torch.zeros(12, 9, requires_grad=True)
    error = log_depth_error(empty, measured, kept)
    error.backward()
    assert torch.isfinite(error) and torch.equal(empty.grad, torch.zeros(12, 9))


def test_kept_mean_of_grey_and_colour():
    values = torch.arange(12.0).reshape(2, 2, 3)
    kept = torch.tensor([[True, False], [False, True]])
    assert kept_mean(values, kept, 0.0).item() == pytest.approx((0 + 1 + 2 + 9 + 10 + 11) / 6)
    assert kept_mean(values[..., 0], kept, 0.0).item() == pytest.approx((0 + 9) / 2)
