"""What moves: frames of the clip with the masks on them, how much is masked, and how steadily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.objects import COLOUR_NAMES, object_facts
from ...core.scene import Scene
from ...view.colors import several_objects
from ..contents import Chart, Picture
from ..figures import Axes, Line, line_chart
from ..measures import MeasuredScene
from ..pictures import contoured, jpeg_uri, outlined, panel_size, photo
from ..rules import care_limit
from ..sampling import evenly_spaced
from ..words import in_percent, percent, when_of, x_label

SHEET_FRAMES = 12
"""Most frames on the sheet."""
_MOST_NAMED = 7
"""Objects; there are as many colours."""
_SHEET_WIDTH = 400
"""Pixels."""
_LEADS = {
    "none": "Nothing was masked in this run (--no-masks).",
    "user": "Tinted red: your masks. Training leaves these pixels out.",
}
"""By the source of the masks; other masks are estimated."""


@dataclass(frozen=True)
class MotionSection:
    """Frames with what moves tinted, and charts over time."""

    lead: str
    frames: tuple[Picture, ...]
    upright: bool
    """Whether the pictures are higher than wide."""
    charts: tuple[Chart, ...]


def motion_section(scene: Scene, measured: MeasuredScene) -> MotionSection:
    """A sheet of frames over the whole clip; charts where something moves."""
    series, size = measured.series, panel_size(scene, _SHEET_WIDTH)
    first = scene.dynamic.first
    frames = []
    for f in evenly_spaced(len(series.times), SHEET_FRAMES):
        shown = outlined(photo(scene, f, size), scene.dynamic.masks[f], several_objects(scene, f))
        if first is not None:
            shown = contoured(shown, first[f])
        caption = f"{when_of(scene, f)}, {percent(series.coverage[f])} masked"
        if first is not None:
            caption += f" (first look {percent(first[f].mean())})"
        frames.append(Picture(jpeg_uri(shown, 76), f"Frame {f + 1} with what moves tinted", caption))
    changes = measured.moves and len(series.times) > 1
    return MotionSection(
        lead=_lead(scene),
        frames=tuple(frames),
        upright=size[1] > size[0],
        charts=(_coverage_chart(scene, measured), _flicker_chart(scene, measured)) if changes else (),
    )


def _lead(scene: Scene) -> str:
    lead = _LEADS.get(scene.dynamic.source, "Tinted red: what was found to move. Training leaves these pixels out.")
    if (scope := scene.provenance.get("mask_scope")) is not None:
        lead += (
            " What moves at some time is masked at all times at which it can be followed (--mask-scope ever), "
            f"{percent(scope['added'])} of the picture more."
        )
    if (refined := scene.provenance.get("refined_masks")) is not None:
        lead += (
            f" The masks are those of {refined['model']}, which was told what moves: {percent(refined['own_share'])} "
            f"of the picture was found to move, {percent(refined['share'])} is masked."
        )
    if (named := scene.provenance.get("named_masks")) is not None:
        lead += _by_names(named)
    lead = _told_apart(scene, lead)
    look = scene.provenance.get("motion") or {}
    if look.get("kept") == "second":
        lead += (
            " It is what flow does that the found cameras and depth do not predict: they explain "
            f"{percent(look['explained'])} of the flow of what stands still. White line: the first look, by which the "
            f"cameras were found{' at first; then they were found again' if look.get('found_again') else ''}."
        )
    elif look.get("why"):
        lead += f" The masks are those of the first look: {look['why']}."
    return lead


def _by_names(facts: dict[str, Any]) -> str:
    """What of the masks comes from names."""
    words = ", ".join(
        f"{one['name']} ({'masked' if one['option'] == 'remove' else 'not masked'}; in {one['frames']} frames, "
        f"{percent(one['share'])} of the picture)"
        for one in facts["names"]
    )
    return (
        f" By names: {words}. {percent(facts['added'])} of the picture is masked by its name alone, and "
        f"{percent(facts['taken'])} would be masked without one."
    )


def _told_apart(scene: Scene, lead: str) -> str:
    """``lead`` with the objects, the largest of which are named, where there are several."""
    objects = scene.dynamic.objects
    if objects is None or int(objects.max(initial=0)) < 2:
        return lead
    facts = sorted(object_facts(objects), key=lambda one: -one["share"])
    named = [
        f"{one['id']} ({COLOUR_NAMES[(one['id'] - 1) % len(COLOUR_NAMES)]}; frames {one['first'] + 1} to "
        f"{one['last'] + 1}, up to {percent(one['share'])} of the picture)"
        for one in facts[:_MOST_NAMED]
    ]
    rest = f", and {len(facts) - _MOST_NAMED} smaller ones" if len(facts) > _MOST_NAMED else ""
    lead = lead.replace("Tinted red", "Tinted")
    return f"{lead} Each of {len(facts)} objects has its colour: {', '.join(named)}{rest}."


def _coverage_chart(scene: Scene, measured: MeasuredScene) -> Chart:
    axes = Axes(x_label(scene), in_percent, "Masked share of each frame", least_high=5.0)
    lines = [Line("", 100 * measured.series.coverage, filled=True)]
    first = scene.dynamic.first
    if first is not None:
        count = len(measured.series.times)
        lines = [
            Line("second look", 100 * measured.series.coverage, filled=True),
            Line("first look", 100 * first[:count].mean(axis=(1, 2)), style="s2"),
        ]
    return Chart("Masked part of the picture", line_chart(measured.series.times, lines, axes))


def _flicker_chart(scene: Scene, measured: MeasuredScene) -> Chart:
    limit = 100 * (care_limit("flicker") or 0.0)
    axes = Axes(x_label(scene), in_percent, "Flicker of the masks", limit=limit, least_high=limit)
    lines = [Line("", 100 * measured.series.flicker, filled=True)]
    note = "Difference between the masked area of a frame and the mean of its two neighbours."
    return Chart("Flicker", line_chart(measured.series.times, lines, axes), note)
