"""Whether a folder is one that a program will read: the reading rules of each, applied to any folder.

The rules are those of the programs' own loaders, written down anew. One module a program, with a
:class:`~easi3r_ns.check.consumer.Consumer` called ``CONSUMER``, and a line in :data:`CONSUMERS`.
"""

from __future__ import annotations

from ..core.registry import Entry

CONSUMERS = (
    Entry("nerfstudio", f"{__name__}.nerfstudio", "nerfstudio 1.1.5, by its own loader"),
    Entry("brush", f"{__name__}.brush", "Brush 1.0"),
    Entry("lichtfeld", f"{__name__}.lichtfeld", "LichtFeld Studio"),
    Entry("gsplat", f"{__name__}.gsplat", "the examples of gsplat 1.6"),
    Entry("inria", f"{__name__}.inria", "INRIA's gaussian-splatting and what is made from it"),
    Entry("postshot", f"{__name__}.postshot", "Postshot"),
    Entry("ngp", f"{__name__}.ngp", "instant-ngp"),
    Entry("4dgaussians", f"{__name__}.moving", "4DGaussians and other trainers of moving scenes"),
)

CONSUMER_NAMES = tuple(entry.name for entry in CONSUMERS)
