"""The report of a run whose cameras could not be found: why, and the masks that were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..core.scene import Scene
from ..storage.files import write_bytes
from .measures import measure
from .page import template
from .sections.motion import MotionSection, motion_section
from .sections.run import RunSection, run_section


@dataclass(frozen=True)
class UnposedPage:
    """Everything that the template shows, in the order of the page."""

    source: str
    """The clip that was given."""
    problem: str
    """Why there are no cameras, and what to do about it."""
    motion: MotionSection
    run: RunSection
    version: str


def write_unposed_report(scene: Scene, problem: str, path: Path) -> None:
    """Write the page to ``path``, atomically.

    Args:
        scene: images and masks; its cameras are not shown.
        problem: why there are no cameras, with the remedies.

    Raises OutputError when the disk refuses.
    """
    page = UnposedPage(
        source=str(scene.provenance.get("source") or scene.names[0]),
        problem=f"{problem[:1].upper()}{problem[1:]}.",
        motion=motion_section(scene, measure(scene)),
        run=run_section(scene.provenance),
        version=__version__,
    )
    write_bytes(path, template("unposed.html.jinja").render(page=page).encode())
