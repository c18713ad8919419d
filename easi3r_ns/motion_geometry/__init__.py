"""What moves, without a network: optical flow that no motion of the camera explains."""

from .masks import geometric_masks

__all__ = ["geometric_masks"]
