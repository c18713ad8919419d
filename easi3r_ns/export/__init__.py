"""Scene -> other people's formats: one file a format.

A new format is a module here with an :class:`~easi3r_ns.export.exporter.Exporter` called ``EXPORTER``, and a line in
:data:`EXPORTERS`; the command line and its help follow the table.
"""

from __future__ import annotations

from ..core.registry import Entry

EXPORTERS = (
    Entry("mesh", f"{__name__}.mesh.static", "the static background as mesh.ply, .obj and .glb"),
    Entry("dynamic-mesh", f"{__name__}.mesh.dynamic", "what moves, a mesh per frame"),
    Entry("cloud", f"{__name__}.cloud", "static points with normals, and the moving points of each frame"),
    Entry("colmap", f"{__name__}.colmap", "images, masks and sparse model, as COLMAP itself has them"),
    Entry("splat", f"{__name__}.splat", "the same for Brush, LichtFeld, gsplat, INRIA and Postshot"),
    Entry("dnerf", f"{__name__}.dnerf", "images with times, for trainers of moving scenes (4DGaussians and others)"),
    Entry("ngp", f"{__name__}.ngp", "transforms.json and masks for instant-ngp"),
    Entry("megasam", f"{__name__}.megasam", "images, depth, cameras and motion as MegaSaM writes them"),
    Entry("vipe", f"{__name__}.vipe", "the artefacts of ViPE: video, poses, lenses, depth, masks"),
    Entry("tum", f"{__name__}.tum", "the camera path as text"),
    Entry("glb", f"{__name__}.scene_glb", "surface, cameras and path in one file"),
    Entry("rerun", f"{__name__}.rerun_file", "a recording (needs the extra `rerun`)"),
)
"""In the order of `easi3r export --format all`."""

EXPORT_FORMATS = tuple(entry.name for entry in EXPORTERS)
