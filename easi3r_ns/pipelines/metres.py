"""``--metric-reference`` and ``--camera-height`` in a run: checked before the long work, applied after it."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.config import DatasetConfig
from ..core.errors import InputError
from ..core.metric import metric_scene
from ..core.reference import MetricReference
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import Frames
from ..dataset.listing import positions_by_stem, possible_stems


def in_metres_as_asked(scene: Scene, config: DatasetConfig, log: RunLog) -> Scene:
    """The finished scene in metres, where the options say how large it is: see :func:`~..core.metric.metric_scene`.

    Raises:
        InputError: the options do not fit the scene; what was computed is kept for another try.
    """
    try:
        return metric_scene(scene, config, positions_by_stem(scene), log)
    except InputError as error:
        raise InputError(f"{error}. What was computed is kept: the same command with another value goes on") from error


def refuse_without_depth(config: DatasetConfig, has_depth: bool) -> None:
    """Raises InputError where a distance between pixels is given and there will be no depth."""
    if config.metric_reference is not None and not has_depth:
        raise InputError(
            f"{MetricReference.parse(config.metric_reference)} needs the depth at both points, and --depth none "
            "measures none: leave it out, or give --camera-height"
        )


def refuse_reference(config: DatasetConfig, clips: Sequence[Frames]) -> None:
    """Raises InputError, before the long work, where ``--metric-reference`` names no picture or a point outside.

    Args:
        clips: the frames of each clip, or of the only one.
    """
    if config.metric_reference is None:
        return
    reference = MetricReference.parse(config.metric_reference)
    between = [0 if frames.skipped is None else len(frames.skipped) for frames in clips]
    names = [name for frames in clips for name in frames.names]
    count = len(names) + sum(between)
    row = reference.position_in(possible_stems(count, len(clips), clips[0].rig), names, guessed=len(clips) > 1)
    if len(clips) == 1 and not any(between):  # else it is not known yet which picture has the number
        frames = clips[0]
        width, height = frames.pixel_map.source_wh
        on_side = frames.turned is not None and bool(frames.turned[row])
        reference.refuse_outside((height, width) if on_side else (width, height))
