"""Folders that other methods' demos write -> Scene, so that their results go through our exporters and viewer.

A new layout is a module here with an :class:`~easi3r_ns.importers.recording.Importer` called ``IMPORTER``, and a line
in :data:`IMPORTERS`; the command line and its help follow the table.
"""

from __future__ import annotations

from ..core.registry import Entry

IMPORTERS = (
    Entry("demo", f"{__name__}.demo", "MonST3R, Easi3R and VGGT4D"),
    Entry("cut3r", f"{__name__}.cut3r", "CUT3R"),
    Entry("vipe", f"{__name__}.vipe", "ViPE"),
    Entry("megasam", f"{__name__}.megasam", "MegaSaM"),
    Entry("depth_anything", f"{__name__}.depth_anything", "Depth Anything 3"),
    Entry("colmap", f"{__name__}.colmap", "COLMAP, with its pictures"),
    Entry("nerfstudio", f"{__name__}.nerfstudio", "nerfstudio, or another program with its transforms.json"),
)
"""Tried in this order; the summary says whose demos write such folders."""
