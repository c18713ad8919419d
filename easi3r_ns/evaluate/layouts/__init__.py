"""Published sets in their official layouts, under the protocol of their name; a new one is a module and a line here.

The layouts are read as their authors describe them; they were tested on small copies that were made for it, not on the
sets themselves.
"""

from __future__ import annotations

from . import adt, davis, dycheck, kitti, rgbd, sintel
from .layout import Layout, TrueClip, TrueFrame, clips_of_set, write_capture

__all__ = ["LAYOUTS", "Layout", "TrueClip", "TrueFrame", "clips_of_set", "write_capture"]

LAYOUTS: dict[str, Layout] = {
    **davis.LAYOUTS,
    **dycheck.LAYOUTS,
    **adt.LAYOUTS,
    **rgbd.LAYOUTS,
    **sintel.LAYOUTS,
    **kitti.LAYOUTS,
}
"""Name -> set."""
