"""Video file or images -> :class:`~easi3r_ns.core.types.Frames`: decode, turn upright, select, resize, crop."""

from .decoded import KEPT_BYTES
from .jobs import Kept
from .loader import find_parts, load_frames, preview_source
from .preprocess import ImageGeometry, enlarged, enlargement, plan_preprocessing, resize_and_crop
from .source import open_source, selection_of_views
from .sphere import is_sphere

__all__ = [
    "KEPT_BYTES",
    "ImageGeometry",
    "Kept",
    "enlarged",
    "enlargement",
    "find_parts",
    "is_sphere",
    "load_frames",
    "open_source",
    "plan_preprocessing",
    "preview_source",
    "resize_and_crop",
    "selection_of_views",
]
