"""What stays of a run whose cameras could not be found: the masks, a preview of them, and a report of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import DatasetConfig
from ..core.errors import AlignmentError
from ..core.runlog import RunLog
from ..core.scene import Scene, what_frames_show
from ..core.types import DynamicMasks, Frames
from ..dataset.resample import static_at_source
from ..report.card import PREVIEW, REPORT
from ..report.contact_sheet import NAME as CONTACT_SHEET
from ..report.contact_sheet import write_contact_sheet
from ..report.preview import write_preview
from ..report.unposed import write_unposed_report
from ..storage.files import make_folder, write_png
from ..storage.owned import claim, leave_if_empty, settle

_CLIP = "clip_"
FOLDER = "partial"
"""Name of the folder in the output folder; no program takes it for a dataset."""


class NoCamerasError(AlignmentError):
    """The cameras could not be found, but the masks are there: those of the clip, or of each of several."""

    def __init__(self, message: str, *found: tuple[Frames, DynamicMasks]) -> None:
        super().__init__(message)
        self.found = found


def keep_masks(
    error: NoCamerasError, output_dir: Path, config: DatasetConfig, facts: Mapping[str, Any], log: RunLog
) -> AlignmentError:
    """Write what there is into ``output_dir/partial`` and return the error with a sentence about it.

    Masks are named as those of a dataset, and black where something moves, as there. Several clips have a folder each,
    ``clip_1``, ``clip_2``, ...

    Args:
        facts: provenance for the report.

    Raises:
        OutputError: files of the user are in the way, or the disk refuses.
    """
    folder = output_dir / FOLDER
    several = len(error.found) > 1
    drop_masks(output_dir)
    for number, (frames, dynamic) in enumerate(error.found, 1):
        place = folder / f"{_CLIP}{number}" if several else folder
        write_masks(place, frames, dynamic.final, str(error), config, facts, log)
    kept = f"the masks (black where something moves){', a preview and a report' if config.report else ''}"
    return AlignmentError(f"{error}. What was found stays in {folder}: {kept}{' of each clip' if several else ''}")


def write_masks(
    folder: Path,
    frames: Frames,
    dynamic: DynamicMasks,
    problem: str,
    config: DatasetConfig,
    facts: Mapping[str, Any],
    log: RunLog,
    *,
    sheet: bool = False,
) -> None:
    """Masks of one clip, with a preview, a report and, with ``sheet``, a contact sheet where they are wanted.

    Args:
        problem: why there are no cameras.

    Raises:
        OutputError: files of the user are in the way, or the disk refuses.
    """
    rig = frames.rig
    masks = [f"masks/{f'frame_{k + 1:05d}' if rig is None else rig.stem(k)}.png" for k in range(len(frames))]
    report = [PREVIEW, REPORT, *([CONTACT_SHEET] if sheet else [])] if config.report else []
    claim(folder, [*masks, *report])
    make_folder(folder / "masks")
    for file, moving in zip(masks, dynamic.masks):
        static = static_at_source(moving, frames.pixel_map, config.mask_growth)
        write_png(folder / file, static.astype(np.uint8) * 255)
    if report:
        logged = {"stages": [asdict(stage) for stage in log.stages], "warnings": list(log.warnings)}
        scene = _without_cameras(frames, dynamic, {**facts, **logged})
        with log.stage("preview", len(scene)) as advance:
            write_preview(scene, folder / PREVIEW, advance)
        if sheet:
            with log.stage("contact sheet"):
                write_contact_sheet(scene, folder / CONTACT_SHEET)
        with log.stage("report"):
            write_unposed_report(scene, problem, folder / REPORT)
    settle(folder, [*masks, *report])


def masks_in_use(output_dir: Path, masks: Path | None) -> bool:
    """Whether ``--masks`` names what an earlier run without cameras left in ``output_dir``."""
    folder = (output_dir / FOLDER).resolve()
    return masks is not None and folder in [masks.resolve(), *masks.resolve().parents]


def drop_masks(output_dir: Path) -> None:
    """Delete what an earlier run without cameras left."""
    folder = output_dir / FOLDER
    for place in sorted(folder.glob(f"{_CLIP}*")):
        if place.is_dir():
            claim(place, ())
            leave_if_empty(place)
    if folder.is_dir():
        claim(folder, ())


def _without_cameras(frames: Frames, dynamic: DynamicMasks, facts: Mapping[str, Any]) -> Scene:
    """Images and masks in the form that the parts of the report draw; its cameras mean nothing and are not shown."""
    count, nothing = len(frames), np.zeros(frames.images.shape[:3], dtype=np.float32)
    height, width = frames.images.shape[1:3]
    return Scene(
        **what_frames_show(frames),
        T_world_cam=np.tile(np.eye(4), (count, 1, 1)),
        focals=np.full(count, float(width)),
        principal_point=np.array([width - 1, height - 1]) / 2,
        depth=nothing,
        confidence=nothing,
        dynamic=dynamic,
        provenance=dict(facts),
    )
