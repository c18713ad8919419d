"""What to do with a dataset next: train on it, or first what mends what speaks against it, as commands to copy.

:data:`REMEDIES` holds what can be typed against a finding; a finding without a remedy there has its words only.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import Easi3RConfig, FrameConfig, RefineConfig
from ..core.scene import Scene
from .command import command_text
from .measures import PREVIEW_WEIGHTS, MeasuredScene
from .rules import Level, care_limit
from .verdict import Finding, Verdict

FEWEST_FOR_EVALUATION = 10
"""Frames from which nerfstudio's default split keeps one for evaluation."""
MOST_STEPS = 3
"""Most steps that are shown."""


@dataclass(frozen=True)
class Step:
    """Something to do."""

    command: str
    why: str
    """What it is for, as a sentence."""


Changes = Mapping[str, Mapping[str, Any]]
"""Part of the configuration -> name of a field -> value."""


@dataclass(frozen=True)
class _Run:
    """What a remedy is chosen by."""

    scene: Scene
    measured: MeasuredScene

    def option(self, group: str, name: str, default: Any) -> Any:
        """The value that an option had in the run."""
        chosen = (self.scene.provenance.get("config") or {}).get(group) or {}
        value = chosen.get(name)
        return default if value is None else value

    @property
    def weights(self) -> str:
        """Name of the weights that made the scene."""
        return str((self.scene.provenance.get("weights") or {}).get("name") or "")

    @property
    def available(self) -> int:
        """Frames that the source has, not counting the views of a sphere apart; 0: unknown."""
        views = 1 if self.scene.rig is None else self.scene.rig.num_views
        return int(self.scene.provenance.get("num_source_frames") or 0) // views


def next_steps(scene: Scene, measured: MeasuredScene, verdict: Verdict, dataset: Path) -> tuple[Step, ...]:
    """The steps to take, the best first: never empty, and never training after 'do not train'."""
    steps: dict[str, Step] = {}
    run = _Run(scene, measured)
    for finding in verdict.against:
        settled = scene.stays or "imported" in scene.provenance  # no option of ours makes other people's cameras
        changes = None if settled else _changes(finding, run)
        if changes:
            command = command_text(scene.provenance, dataset, changes)
            steps.setdefault(command, Step(command, f"{finding.reason} {_expected(changes)}"))
    found = list(steps.values())[: MOST_STEPS - 1]
    if verdict.level is Level.STOP:
        worst = verdict.against[0]
        look = Step(f"easi3r view {shlex.quote(str(dataset))}", f"Shows what was found. {worst.rule.remedy}")
        return (*found, look)
    train = Step(
        train_command(scene, dataset), "Trains on the dataset as it is." if found else "Trains on the dataset."
    )
    return (*found, train)


def unjudged_step(scene: Scene, dataset: Path) -> Step:
    """The step for a dataset without a report."""
    if scene.stays:
        return Step(
            f"easi3r view {shlex.quote(str(dataset))}",
            "Shows what was found. The camera stays in its place, so no radiance field can be learned.",
        )
    return Step(train_command(scene, dataset), "Trains on the dataset.")


def train_command(scene: Scene, dataset: Path) -> str:
    """The command that trains on a dataset: over static pixels only, where something moves."""
    folder = shlex.quote(str(dataset))
    count = len(scene) + (len(scene.between) if scene.between is not None else 0)
    given = scene.rig is not None or (scene.provenance.get("config") or {}).get("eval_data")
    few = count < FEWEST_FOR_EVALUATION and not given
    split = " --eval-mode interval" if few else ""
    if scene.dynamic.masks.any():
        return f"ns-train splatfacto-easi3r --data {folder}" + (f" easi3r-data{split}" if few else "")
    return f"ns-train splatfacto easi3r-data --data {folder}{split}"


def _changes(finding: Finding, run: _Run) -> Changes | None:
    remedy = REMEDIES.get(finding.rule.key)
    return None if remedy is None else next(remedy(run), None)


def _more_frames(run: _Run) -> Iterator[Changes]:
    """Twice as many frames, or the default number where that is more, as far as the source has them."""
    used = run.measured.measures.num_frames
    wanted = max(2 * used, FrameConfig().num_frames_target)
    wanted = min(wanted, run.available) if run.available else wanted
    if used < wanted and run.option("frames", "num_frames_target", 1) != 0:
        yield {"frames": {"num_frames_target": wanted, "fps": None}}


def _refinement(run: _Run) -> Iterator[Changes]:
    if run.option("refine", "refine", "auto") == "none" and run.weights != "none":
        yield {"refine": {"refine": RefineConfig().refine}}


def _without_network(run: _Run) -> Iterator[Changes]:
    """Geometry alone: for masks and cameras of weights that are not meant for real footage."""
    if run.weights in PREVIEW_WEIGHTS:
        yield {"easi3r": {"weights": "none"}}


def _own_motion(run: _Run) -> Iterator[Changes]:
    """The found scene decides once more what moves, where that was switched off."""
    if run.option("easi3r", "motion", "auto") != Easi3RConfig().motion and run.scene.dynamic.source not in (
        "user",
        "none",
    ):
        yield {"easi3r": {"motion": Easi3RConfig().motion}}


def _masks(run: _Run) -> Iterator[Changes]:
    if run.scene.dynamic.source not in ("user", "none"):
        yield from _without_network(run)
        yield from _own_motion(run)


def _cameras(run: _Run) -> Iterator[Changes]:
    yield from _refinement(run)
    yield from _without_network(run)
    yield from _more_frames(run)


def _between_jumps(run: _Run) -> Iterator[Changes]:
    """The longest part of the clip in which the camera does not jump."""
    if run.scene.clip is not None:  # a part of several clips has no beginning and end
        yield from _more_frames(run)
        return
    series = run.measured.series
    starts = [0, *np.flatnonzero(series.jumps).tolist()]
    spans = list(zip(starts, [*starts[1:], len(series.times)]))
    first, stop = max(spans, key=lambda span: span[1] - span[0])
    if stop - first >= (care_limit("num_frames") or 0) and len(spans) > 1:
        limits: dict[str, float] = {}
        if first > 0:
            limits["start"] = round(float(series.times[first]), 3)
        if stop < len(series.times):
            limits["end"] = round(float(series.times[stop]), 3)
        yield {"frames": limits}
    yield from _more_frames(run)


def _another_lens(run: _Run) -> Iterator[Changes]:
    if run.option("refine", "camera_model", "radial") in ("pinhole", "radial"):
        yield {"refine": {"camera_model": "opencv"}}


def _fisheye(run: _Run) -> Iterator[Changes]:
    """The lens is fitted by the refinement, to one focal length."""
    refine = {"refine": RefineConfig().refine} if run.option("refine", "refine", "auto") == "none" else {}
    yield {"refine": {"camera_model": "opencv-fisheye", **refine}, "align": {"shared_focal": True}}


def _confidence(run: _Run) -> Iterator[Changes]:
    if run.option("easi3r", "min_confidence", 1.1) > 1 and run.weights != "none":
        yield {"easi3r": {"min_confidence": 1.0}}
    yield from _masks(run)


REMEDIES: Mapping[str, Callable[[_Run], Iterator[Changes]]] = {
    "num_frames": _more_frames,
    "clips_left_out": _more_frames,
    "coverage": _masks,
    "flicker": _masks,
    "usable": _confidence,
    "num_sparse": _more_frames,
    "jumps": _between_jumps,
    "roughness": _refinement,
    "unregistered": _more_frames,
    "unconstrained": _cameras,
    "rotation_sigma": _cameras,
    "position_sigma": _cameras,
    "depth_error": _cameras,
    "colour_gain": _cameras,
    "reprojection": _another_lens,
    "fov_without_fisheye": _fisheye,
    "preview_weights": _without_network,
}
"""Key of a rule -> the changes of the options that would help, the best first; none where nothing typed helps."""

_EXPECTED = {
    "num_frames_target": "This takes more frames of the clip.",
    "refine": "This refines the cameras by bundle adjustment.",
    "weights": "This uses geometry alone instead of preview weights.",
    "motion": "This lets the found scene decide once more what moves.",
    "start": "This keeps to the longest part without a jump.",
    "end": "This keeps to the longest part without a jump.",
    "camera_model": "This fits another lens.",
    "min_confidence": "This keeps depth of less confidence.",
}


def _expected(changes: Changes) -> str:
    """What the first change does, as a sentence."""
    return next(_EXPECTED[name] for options in changes.values() for name in options)
