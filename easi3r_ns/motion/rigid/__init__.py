"""What moves, once cameras and depth are known: optical flow that the static scene does not predict."""

from .look import CLIP_HOLDS, METHOD, MOST_ASTRAY, SecondLook, second_look
from .static_map import has_static_depth

__all__ = ["CLIP_HOLDS", "METHOD", "MOST_ASTRAY", "SecondLook", "has_static_depth", "second_look"]
