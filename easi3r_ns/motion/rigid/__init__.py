"""What moves, once cameras and depth are known: optical flow that the static scene does not predict."""

from .look import CLIP_HOLDS, METHOD, SecondLook, second_look

__all__ = ["CLIP_HOLDS", "METHOD", "SecondLook", "second_look"]
