"""Cameras by bundle adjustment on what stands still (COLMAP): from scratch, or from a scene's own cameras."""

from .kept import refine_kept
from .library import check_lens, check_refine, check_zoom, reason_against
from .mapping import map_static
from .model import Lens, SparseModel
from .scene import refine_scene
from .zoom import warn_about_zoom

__all__ = [
    "Lens",
    "SparseModel",
    "check_lens",
    "check_refine",
    "check_zoom",
    "map_static",
    "reason_against",
    "refine_kept",
    "refine_scene",
    "warn_about_zoom",
]
