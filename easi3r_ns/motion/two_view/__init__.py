"""What moves, without a network: optical flow that no motion of the camera explains."""

from .masks import geometric_masks
from .tokens import flow_residual, residual_bytes

__all__ = ["flow_residual", "geometric_masks", "residual_bytes"]
