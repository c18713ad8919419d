"""What speaks against a dataset, as in its report, with the frames that cause it and the command that helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.runlog import duration
from ..core.scene import Scene
from ..report.measures import MeasuredScene, measure
from ..report.next_step import next_steps
from ..report.verdict import Finding, Verdict, judge

MOST_FRAMES = 8
"""Most frames that are named for a reason."""
_BY_HAND = "Correct the masks of these frames here, then solve again."

_Scores = Callable[[Scene, MeasuredScene], "np.ndarray | None"]


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0.0)


def _coverage(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return measured.series.coverage


def _flicker(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return _finite(measured.series.flicker)


def _rim(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    masks = scene.dynamic.masks[: measured.measures.num_frames]
    sides = masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]
    return np.concatenate(sides, axis=1).mean(axis=1)


def _jumps(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return measured.series.jumps.astype(float)


def _unregistered(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return np.array([float(source == "aligned") for source in scene.pose_sources or ()])


def _unconstrained(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return None if scene.uncertainty is None else np.isinf(scene.uncertainty.centre).astype(float)


def _position(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return None if scene.uncertainty is None else _finite(scene.uncertainty.centre)


def _rotation(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return None if scene.uncertainty is None else _finite(scene.uncertainty.rotation_deg)


def _disagreement(scene: Scene, measured: MeasuredScene) -> np.ndarray | None:
    return None if measured.residuals is None else _finite(measured.residuals.far)


_CAUSES: Mapping[str, _Scores] = {
    "coverage": _coverage,
    "usable": _coverage,
    "flicker": _flicker,
    "rim": _rim,
    "surrounds": _rim,
    "jumps": _jumps,
    "roughness": _jumps,
    "unregistered": _unregistered,
    "unconstrained": _unconstrained,
    "position_sigma": _position,
    "rotation_sigma": _rotation,
    "depth_error": _disagreement,
}
"""Key of a rule -> what each frame has to do with it: (N,) numbers, the largest first; 0: nothing. Rules about the clip
as a whole are not here."""
_OF_CAMERAS = ("unregistered", "unconstrained")
"""Rules about single cameras: a clip may do without these frames."""
_OF_MASKS = ("coverage", "flicker", "rim", "surrounds", "moving_outside", "usable")
"""Rules that a hand can do something about on the page."""


def verdict_of(scene: Scene, dataset: Path) -> dict[str, Any]:
    """JSON: the ``level`` (0: train, 1: with care, 2: do not), it in ``words``, and the ``reasons``.

    Each has its ``words``, its ``frames`` from 0, whether leaving these out would ``exclude`` the cause, a ``remedy``
    in words and, where there is one, a ``step``: ``command`` and ``note``.
    """
    measured = measure(scene)
    verdict = judge(measured.measures)
    return {
        "level": int(verdict.level),
        "words": f"{verdict.level.words}. {verdict.summary}",
        "reasons": [_reason(finding, scene, measured, dataset) for finding in verdict.against],
    }


def _reason(finding: Finding, scene: Scene, measured: MeasuredScene, dataset: Path) -> dict[str, Any]:
    frames = causing_frames(finding.rule.key, scene, measured)
    by_hand = bool(frames) and finding.rule.key in _OF_MASKS
    return {
        "words": finding.reason,
        "frames": frames,
        "exclude": bool(frames) and finding.rule.key in _OF_CAMERAS,
        "remedy": _BY_HAND if by_hand else finding.rule.remedy,
        "step": _step(finding, scene, measured, dataset),
    }


def causing_frames(key: str, scene: Scene, measured: MeasuredScene) -> list[int]:
    """The frames that have most to do with a rule, in their order: at most :data:`MOST_FRAMES`; empty where no frame
    has more to do with it than others.
    """
    scores = _CAUSES[key](scene, measured) if key in _CAUSES and scene.rig is None else None
    if scores is None or not len(scores) or np.ptp(scores) == 0:
        return []
    worst = [k for k in np.argsort(-scores, kind="stable")[:MOST_FRAMES].tolist() if scores[k] > 0]
    # Of frames that differ little from the others none is to blame.
    return sorted(k for k in worst if scores[k] >= np.median(scores))


def _step(finding: Finding, scene: Scene, measured: MeasuredScene, dataset: Path) -> dict[str, str] | None:
    first, *rest = next_steps(scene, measured, Verdict((finding,)), dataset)
    if not rest:  # the last step is to train, or to look
        return None
    seconds = sum(float(stage.get("seconds") or 0) for stage in scene.provenance.get("stages") or ())
    return {"command": first.command, "note": f"The run before took {duration(seconds)}." if seconds else ""}
