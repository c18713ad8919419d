"""Libraries that may be installed and yet not load."""

from __future__ import annotations

from types import ModuleType

from .errors import MissingExtraError


def load_open3d() -> ModuleType:
    """Open3D. Raises MissingExtraError where it does not load, most often for want of system libraries."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"open3d does not load ({error}): on Debian or Ubuntu, apt-get install libusb-1.0-0 libgl1 libgomp1; then "
            "give the same command again, a run goes on where it stopped"
        ) from error
    return open3d
