"""Cameras by bundle adjustment on what stands still (COLMAP): from scratch, or from a scene's own cameras."""

from .kept import refine_kept
from .library import check_refine, reason_against
from .mapping import map_static
from .model import Lens, SparseModel
from .scene import refine_scene

__all__ = ["Lens", "SparseModel", "check_refine", "map_static", "reason_against", "refine_kept", "refine_scene"]
