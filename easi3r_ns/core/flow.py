"""When forward and backward optical flow agree. Flow is (dx, dy) in pixels."""

from __future__ import annotations

from .sampling import Array, inside_image

CONSISTENCY_RELATIVE = 0.01
CONSISTENCY_PX2 = 0.5
"""Forward and backward flow agree when |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 (Sundaram et al., ECCV 2010)."""
FOLLOWED = 0.5
"""Share of the picture in which forward and backward flow agree, from which on a pair is used at all. Between frames
that are too far apart, or blurred, a tenth to a third still agrees, much of it by chance. At a fifth of a second, and
four frames apart, filmed clips have 0.57 and more."""


def flow_returns(
    forward: Array, backward: Array, landing: Array, height: int, width: int, slack_px2: float = CONSISTENCY_PX2
) -> Array:
    """(...) bool: the forward flow lands inside the other image, and the backward flow from there leads back.

    For NumPy arrays and PyTorch tensors.

    Args:
        forward: (..., 2) flow at some pixels.
        backward: (..., 2) flow of the other direction, read where the forward flow lands.
        landing: (..., 2) these places: pixel + forward flow.
        height, width: of the other image.
        slack_px2: squared pixels by which flow of any length may miss its start.
    """
    magnitude = squared_length(forward) + squared_length(backward)
    close = squared_length(forward + backward) < CONSISTENCY_RELATIVE * magnitude + slack_px2
    return close & inside_image(landing, height, width)


def squared_length(vectors: Array) -> Array:
    """(..., 2) -> (...). Two products and a sum: NumPy and PyTorch reduce a last axis of two slowly."""
    return vectors[..., 0] * vectors[..., 0] + vectors[..., 1] * vectors[..., 1]
