"""Is a dataset worth training on? One table of limits, and what to do when one is crossed: pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from .measures import Measures


class Level(IntEnum):
    """From best to worst."""

    TRAIN = 0
    CARE = 1
    STOP = 2

    @property
    def words(self) -> str:
        """The verdict in words."""
        return ("Train", "Train with care", "Do not train")[self]


@dataclass(frozen=True)
class Rule:
    """A measure and the limits beyond which it speaks against training."""

    key: str
    """Field of :class:`Measures`; a value of None is 'not measured'."""
    title: str
    """The measure in a few words."""
    care: float | None
    """Limit for 'train with care'; None: no such limit."""
    stop: float | None
    """Limit for 'do not train'."""
    below: bool
    """True: values below the limit are bad. False: values above."""
    unit: str
    """Name of a format in :data:`_FORMATS`."""
    reason: str
    """What it means when the limit is crossed; '{value}' is filled in."""
    remedy: str

    def level(self, value: float | None) -> Level:
        """How bad a value is."""
        if value is None:
            return Level.TRAIN
        for level, limit in ((Level.STOP, self.stop), (Level.CARE, self.care)):
            if limit is not None and (value < limit if self.below else value > limit):
                return level
        return Level.TRAIN

    def show(self, value: float) -> str:
        """A value with its unit."""
        return _FORMATS[self.unit](value)

    def limits(self) -> str:
        """The limits in words, such as 'at least 3 degrees (1 degree)'."""
        bound = "at least" if self.below else "at most"
        shown = [self.show(limit) for limit in (self.care, self.stop) if limit is not None]
        return f"{bound} {shown[0]}" + (f"; {'below' if self.below else 'above'} {shown[1]}: stop" if shown[1:] else "")


@dataclass(frozen=True)
class Check:
    """One rule applied to one scene."""

    rule: Rule
    value: float | None
    level: Level

    @property
    def shown(self) -> str:
        """The value with its unit, or 'not measured'."""
        return "not measured" if self.value is None else self.rule.show(self.value)

    @property
    def reason(self) -> str:
        """The sentence with the value."""
        return self.rule.reason.format(value=self.shown)


@dataclass(frozen=True)
class Verdict:
    """All checks of a scene; the worst decides."""

    checks: tuple[Check, ...]

    @property
    def level(self) -> Level:
        """The worst level of any check."""
        return max((check.level for check in self.checks), default=Level.TRAIN)

    @property
    def against(self) -> tuple[Check, ...]:
        """The checks that speak against training, worst first."""
        return tuple(sorted((c for c in self.checks if c.level > Level.TRAIN), key=lambda c: -c.level))

    @property
    def summary(self) -> str:
        """One sentence."""
        count = len(self.against)
        things = "one thing" if count == 1 else f"{count} things"
        return (
            "Nothing that can be checked without training speaks against it.",
            f"It will train, but look at {things} first.",
            "Training on this would most likely waste your time.",
        )[self.level]


def care_limit(key: str) -> float | None:
    """Where 'train with care' begins for a measure."""
    return next(rule.care for rule in RULES if rule.key == key)


def judge(measures: Measures) -> Verdict:
    """Apply every rule of :data:`RULES` to the measures of a scene."""
    checks = []
    for rule in RULES:
        value = getattr(measures, rule.key)
        value = None if value is None else float(value)
        checks.append(Check(rule, value, rule.level(value)))
    return Verdict(tuple(checks))


def _degrees(value: float) -> str:
    shown = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return f"{shown} {'degree' if shown == '1' else 'degrees'}"


def percent(share: float) -> str:
    """0.0123 -> '1.2 %': two digits where the share is small."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or value == int(value) else f"{value:.1f} %"


_FORMATS: dict[str, Callable[[float], str]] = {
    "share": percent,
    "degrees": _degrees,
    "count": lambda value: f"{value:.0f}",
    "levels": lambda value: f"{value:.1f} of 255",
    "ratio": lambda value: f"{value:.2f}",
    "flag": lambda value: "yes" if value else "no",
    "per mille": lambda value: f"{value:.2f} px per 1000",
}

_OWN_MASKS = "Look at the masks below; where they are wrong, give your own with --masks."

RULES = (
    Rule(
        "num_frames",
        "Frames",
        8,
        3,
        True,
        "count",
        "There are only {value} frames.",
        "Use more of the clip: a higher --num-frames-target, or --fps.",
    ),
    Rule(
        "picture_change",
        "Change of the static picture",
        None,
        1.5,
        True,
        "levels",
        "What stands still looks the same throughout the clip (it changes by {value}): the camera was on a tripod, "
        "or there is nothing to see on it.",
        "Film again while walking; without a moving camera there is no 3D to learn.",
    ),
    Rule(
        "parallax",
        "Parallax",
        3.0,
        1.0,
        True,
        "degrees",
        "The camera hardly changes its place: a typical background point is seen from directions {value} apart.",
        "Film again while walking sideways past the scene; turning on the spot is not enough.",
    ),
    Rule(
        "no_parallax",
        "Background without parallax",
        0.3,
        None,
        False,
        "share",
        "Part of the clip has no parallax: {value} of the background points are seen from one direction only.",
        "Cut away the part in which the camera stands or turns on the spot (--start, --end).",
    ),
    Rule(
        "coverage",
        "Moving part of the picture",
        0.5,
        0.85,
        False,
        "share",
        "The masks cover {value} of the picture on average, so little is left to learn from.",
        _OWN_MASKS + " A wider shot helps too.",
    ),
    Rule(
        "flicker",
        "Flicker of the masks",
        0.3,
        None,
        False,
        "share",
        "The masks flicker: their area jumps by {value} from frame to frame.",
        _OWN_MASKS + " More frames per second (--fps) help where things move fast.",
    ),
    Rule(
        "usable",
        "Pixels with static, trusted depth",
        0.1,
        0.02,
        True,
        "share",
        "Only {value} of the pixels stand still and have a depth to trust.",
        "Lower --min-confidence, check the masks, or use stronger --weights.",
    ),
    Rule(
        "num_sparse",
        "Triangulated points",
        500,
        100,
        True,
        "count",
        "Only {value} points could be triangulated.",
        "Film slower and with more light: sharp texture gives points.",
    ),
    Rule(
        "jumps",
        "Jumps of the camera",
        0.0,
        0.15,
        False,
        "share",
        "The camera path jumps in {value} of its steps.",
        "Look at the path below; cut the clip there (--start, --end), or use more frames.",
    ),
    Rule(
        "roughness",
        "Roughness of the camera path",
        1.0,
        None,
        False,
        "ratio",
        "The camera path is rough: it trembles {value} times as much as it moves on.",
        "Let bundle adjustment refine it (--refine colmap), or smooth it (--align.smooth-weight).",
    ),
    Rule(
        "unregistered",
        "Cameras that could not be confirmed",
        0.1,
        0.6,
        False,
        "share",
        "Bundle adjustment could not confirm {value} of the cameras.",
        "Cut the clip to the part that worked (--start, --end), or use more frames.",
    ),
    Rule(
        "unheld",
        "Cameras that nothing holds",
        0.0,
        0.3,
        False,
        "share",
        "For {value} of the frames the network's pointmaps fit nothing else: their cameras are interpolated.",
        "Leave these frames out (--start, --end), or use stronger --weights.",
    ),
    Rule(
        "rotation_sigma",
        "Uncertainty of the rotations",
        3.0,
        10.0,
        False,
        "degrees",
        "The cameras' rotations are uncertain by {value} (1 sigma).",
        "Let bundle adjustment refine them (--refine colmap), or use stronger --weights.",
    ),
    Rule(
        "position_sigma",
        "Uncertainty of the positions, in depths",
        0.05,
        0.2,
        False,
        "share",
        "The cameras' positions are uncertain by {value} of the typical depth (1 sigma).",
        "Let bundle adjustment refine them (--refine colmap), or use stronger --weights.",
    ),
    Rule(
        "depth_error",
        "Disagreement of the depths",
        0.05,
        0.25,
        False,
        "share",
        "The depths of different frames disagree by {value} on what stands still.",
        "Use stronger --weights, or check that the masks cover everything that moves.",
    ),
    Rule(
        "colour_gain",
        "Change in the picture left unexplained",
        0.75,
        1.2,
        False,
        "share",
        "The cameras explain the picture badly: with their motion undone, {value} of the change in what stands still "
        "remains.",
        "Use stronger --weights, or --refine colmap.",
    ),
    Rule(
        "reprojection",
        "Reprojection error",
        2.0,
        None,
        False,
        "per mille",
        "Triangulated points miss their pixels by {value} of image width.",
        "Try another --camera-model, or give --focal-length.",
    ),
    Rule(
        "fov",
        "Field of view, narrow side",
        15.0,
        None,
        True,
        "degrees",
        "The lens seems to see only {value}: such tele lenses give little depth.",
        "If the lens is known, give --focal-length.",
    ),
    Rule(
        "fov",
        "Field of view, wide side",
        110.0,
        None,
        False,
        "degrees",
        "The lens seems to see {value}: a fisheye is not modelled.",
        "If the lens is known, give --focal-length.",
    ),
    Rule(
        "focal_spread",
        "Spread of the focal length",
        0.15,
        None,
        False,
        "share",
        "Single frames disagree about the focal length by {value}.",
        "If the lens is known, give --focal-length.",
    ),
    Rule(
        "preview_weights",
        "Preview weights",
        0,
        None,
        False,
        "flag",
        "The weights that ship with the package are a preview: nothing is promised for real footage.",
        "Use --weights dust3r or monst3r (non-commercial) for real clips.",
    ),
)
"""Every limit there is. How they were set: true cameras and depths of rendered rooms and of a real RGB-D walk stay far
inside (parallax 5 to 14 degrees, colour gain 0.1 to 0.4, roughness 0.2 to 0.6, depth disagreement below 0.5 %), while
a clip from a tripod and paths that are known to be wrong lie outside."""
