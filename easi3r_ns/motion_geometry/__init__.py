"""What moves, without a network: optical flow that no motion of the camera explains."""

from .masks import geometric_masks
from .tokens import enlargement, flow_residual

__all__ = ["enlargement", "flow_residual", "geometric_masks"]
