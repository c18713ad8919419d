"""easi3r-ns: camera poses, motion masks, depth and point clouds from casual video, as nerfstudio datasets."""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
