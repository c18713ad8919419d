"""The focal length that a clip's file names, as a start value where it is not given."""

from __future__ import annotations

from typing import Any

from ..core.config import Easi3RConfig
from ..core.runlog import RunLog
from ..core.types import Frames, RecordedFocal


def recorded_focal(config: Easi3RConfig, frames: Frames) -> RecordedFocal | None:
    """What the file says; None where it says nothing or ``--focal-length`` is given, which wins."""
    return None if config.focal_length is not None else frames.recorded_focal


def start_focal(config: Easi3RConfig, frames: Frames, log: RunLog) -> float | None:
    """Source pixels where bundle adjustment starts, with a line that says so; None: nothing is known."""
    recorded = recorded_focal(config, frames)
    if recorded is None:
        return None
    log.info(f"focal length {recorded}, as a start value")
    return recorded.pixels


def start_facts(config: Easi3RConfig, frames: Frames) -> dict[str, Any]:
    """For the provenance, where there is a start value."""
    recorded = recorded_focal(config, frames)
    if recorded is None:
        return {}
    names = ("pixels", "equivalent_mm", "origin")
    return {"start_focal": {name: getattr(recorded, name) for name in names}}
