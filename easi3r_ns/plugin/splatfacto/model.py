"""splatfacto with losses and metrics over the static pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.model_components.lib_bilagrid import color_correct
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig

from ...core.errors import InputError
from .masked import complete_windows, l1, log_depth_error, mean_ssim, psnr

_WHOLE = 0.999
"""A pixel of a downscaled mask is kept when its whole block is, so that the mean of the block is 1 up to rounding."""


@dataclass
class Easi3RSplatfactoModelConfig(SplatfactoModelConfig):
    """splatfacto on the static parts of the images."""

    _target: type = field(default_factory=lambda: Easi3RSplatfactoModel)
    depth_weight: float = 0.0
    """Weight of the distance to the dataset's depth maps: mean |log z - log z of the map| over static pixels that have
    one. 0 leaves it out."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.depth_weight) and self.depth_weight >= 0):
            raise InputError(f"--pipeline.model.depth-weight {self.depth_weight:g}: give a number of at least 0")


class Easi3RSplatfactoModel(SplatfactoModel):
    """SplatfactoModel of nerfstudio 1.1.5 with three differences where a batch has a mask (True where static).

    * nerfstudio's ``get_loss_dict`` blackens the masked pixels of both images and averages L1 and SSIM over ALL pixels:
      an image of which half is masked has half the weight, and windows across the border of the mask contain an edge
      that is not in the scene. Here both are means over the kept pixels, see :mod:`.masked`.
    * nerfstudio's ``get_metrics_dict`` and ``get_image_metrics_and_images`` ignore the mask, so that even a perfect
      background scores badly where objects move. Here PSNR and SSIM are those of the static pixels. LPIPS remains that
      of the whole image, because its receptive fields extend across any mask.
    * With ``depth_weight`` there is a depth term.

    Without a mask all numbers equal nerfstudio's.
    """

    config: Easi3RSplatfactoModelConfig

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, torch.Tensor]:
        """nerfstudio's losses with ``main_loss`` over static pixels, and ``depth_loss`` where it has a weight.

        ``outputs["rgb"]`` is (h, w, 3), ``outputs["depth"]`` (h, w, 1) z-depth at the current training resolution;
        ``batch`` is at full resolution: ``image`` (H, W, 3 or 4), ``mask`` (H, W, 1), ``depth_image`` (H, W, 1).
        Raises InputError when they do not fit each other, or when a depth that has a weight is missing.
        """
        kept = self._kept(batch, outputs["rgb"])
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if kept is not None:
            rendered, truth = outputs["rgb"], self._truth(outputs, batch)
            similarity = mean_ssim(rendered, truth, kept, self.ssim, if_none=1.0)
            share = self.config.ssim_lambda
            losses["main_loss"] = (1 - share) * l1(rendered, truth, kept) + share * (1 - similarity)
        if self.config.depth_weight > 0:
            losses["depth_loss"] = self.config.depth_weight * self._depth_error(outputs, batch, kept)
        return losses

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """nerfstudio's metrics, PSNR over static pixels (NaN where an image has none)."""
        kept = self._kept(batch, outputs["rgb"])
        metrics = super().get_metrics_dict(outputs, batch)
        if kept is not None:
            rendered, truth = outputs["rgb"], self._truth(outputs, batch)
            metrics["psnr"] = psnr(rendered, truth, kept)
            if self.config.color_corrected_metrics:
                metrics["cc_psnr"] = psnr(_corrected(rendered, truth, kept), truth, kept)
        return metrics

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """nerfstudio's metrics and picture, PSNR and SSIM over static pixels, and the ``static_share`` of the image.

        NaN where an image has no static pixel (PSNR) or no wholly static window (SSIM).
        """
        kept = self._kept(batch, outputs["rgb"])
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if kept is None:
            return metrics | {"static_share": 1.0}, images
        truth = self._truth(outputs, batch)
        candidates = {"": outputs["rgb"]}
        if self.config.color_corrected_metrics:
            candidates["cc_"] = _corrected(outputs["rgb"], truth, kept)
        for prefix, rendered in candidates.items():
            metrics[f"{prefix}psnr"] = float(psnr(rendered, truth, kept))
            metrics[f"{prefix}ssim"] = float(mean_ssim(rendered, truth, kept, self.ssim, if_none=math.nan))
        return metrics | {"static_share": float(kept.float().mean())}, images

    def is_measurable(self, batch: dict[str, Any]) -> bool:
        """Whether the image has a wholly static window, so that PSNR and SSIM over static pixels exist."""
        if "mask" not in batch:
            return True
        return bool(complete_windows(batch["mask"][..., 0].bool(), self.ssim.win.shape[-1]).any())

    def _truth(self, outputs: dict[str, Any], batch: dict[str, Any]) -> torch.Tensor:
        return self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])

    def _kept(self, batch: dict[str, Any], rendered: torch.Tensor) -> torch.Tensor | None:
        """(h, w) bool on the model's device: pixels whose whole block is static; None without a mask."""
        if "mask" not in batch:
            return None
        return self._whole_blocks(batch["mask"] > 0, "mask", batch, rendered)

    def _whole_blocks(
        self, flags: torch.Tensor, name: str, batch: dict[str, Any], rendered: torch.Tensor
    ) -> torch.Tensor:
        if flags.shape != (*batch["image"].shape[:2], 1):
            raise InputError(
                f"{name} has shape {tuple(flags.shape)}, its image {tuple(batch['image'].shape)}: they must have the "
                "same height and width"
            )
        kept = self._downscale_if_required(flags.float())[..., 0].to(self.device) > _WHOLE
        if kept.shape != rendered.shape[:2]:
            raise InputError(
                f"the rendering has shape {tuple(rendered.shape)}, its image at the same resolution {tuple(kept.shape)}"
            )
        return kept

    def _depth_error(self, outputs: dict[str, Any], batch: dict[str, Any], kept: torch.Tensor | None) -> torch.Tensor:
        rendered, measured = outputs.get("depth"), batch.get("depth_image")
        if rendered is None or measured is None:
            raise InputError(
                f"--pipeline.model.depth-weight {self.config.depth_weight:g} needs "
                + (
                    "--pipeline.model.output-depth-during-training True"
                    if rendered is None
                    else "depth maps: --pipeline.datamanager.load-depths True"
                )
            )
        known = self._whole_blocks(measured > 0, "depth_image", batch, outputs["rgb"])
        measured = self._downscale_if_required(measured).to(self.device)[..., 0]
        return log_depth_error(rendered[..., 0], measured, known if kept is None else known & kept)


def _corrected(rendered: torch.Tensor, truth: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """``rendered`` with the colours of its kept pixels fitted to those of ``truth``; other pixels are unchanged."""
    if not bool(kept.any()):
        return rendered
    result = rendered.clone()
    result[kept] = color_correct(rendered[kept], truth[kept])
    return result
