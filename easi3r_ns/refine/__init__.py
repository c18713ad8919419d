"""Cameras by bundle adjustment on what stands still (COLMAP): from scratch, or from a scene's own cameras."""

from .mapping import map_static
from .model import Lens, SparseModel

__all__ = ["Lens", "SparseModel", "map_static"]
