"""PatchMatch stereo of pycolmap, where it is built with CUDA and a CUDA device is there."""

from __future__ import annotations

from pathlib import Path

import torch

from ..core.errors import MissingExtraError
from .library import load_pycolmap

CACHE_GIB = 4.0
"""Most memory of the host for images and maps; COLMAP's default is 32."""


def patch_match_refusal() -> str | None:
    """Why PatchMatch cannot be used here; None where it can."""
    try:
        pycolmap = load_pycolmap()
    except MissingExtraError as error:
        return str(error)
    if not getattr(pycolmap, "has_cuda", False):
        return (
            f"pycolmap {pycolmap.__version__} is built without CUDA: pip uninstall pycolmap, then pip install "
            "pycolmap-cuda12 (Linux, NVIDIA)"
        )
    if not torch.cuda.is_available():
        return "no CUDA device is there"
    return None


def run_patch_match(workspace: Path) -> None:
    """Write ``stereo/depth_maps/*.geometric.bin``: photometric costs, then agreement with the other frames' depths.

    What fewer than two frames confirm is 0. Raises RuntimeError or ValueError, as pycolmap does.
    """
    pycolmap = load_pycolmap()
    options = pycolmap.PatchMatchOptions(geom_consistency=True, filter=True, filter_min_num_consistent=2)
    options.cache_size = CACHE_GIB
    pycolmap.patch_match_stereo(workspace, "COLMAP", "option-all", options)
