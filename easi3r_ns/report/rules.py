"""The rules of the verdict: which measures speak against training, beyond which limits, and what helps.

:data:`RULES` is the whole table; a new rule is a new entry. Its ``key`` names a field of
:class:`easi3r_ns.report.measures.Measures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from .words import degrees, percent


class Level(IntEnum):
    """How much speaks against training, from best to worst."""

    TRAIN = 0
    CARE = 1
    STOP = 2

    @property
    def words(self) -> str:
        """The verdict in words."""
        return ("Train", "Train with care", "Do not train")[self]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A measure and the limits beyond which it speaks against training."""

    key: str
    """Field of :class:`~easi3r_ns.report.measures.Measures`; a value of None means 'not measured'."""
    title: str
    """The measure in a few words."""
    fine: Literal["at least", "at most"]
    """On which side of a limit values are fine; the limit itself is."""
    care: float | None = None
    """Limit of 'train'; beyond it the verdict is 'train with care'. None: no such limit."""
    stop: float | None = None
    """Limit beyond which the verdict is 'do not train'. None: no such limit."""
    show: Callable[[float], str]
    """A value with its unit, as text."""
    reason: str
    """What it means when a limit is crossed; '{value}' is filled in."""
    remedy: str
    """What the user can do about it."""
    fine_when: str | None = None
    """The limits in words, where they are no numbers."""
    decisive: bool = False
    """Whether the report names this measure where nothing speaks against training."""

    def level(self, value: float | None) -> Level:
        """How much a value speaks against training; what is not measured does not."""
        if value is None:
            return Level.TRAIN
        for level, limit in ((Level.STOP, self.stop), (Level.CARE, self.care)):
            if limit is not None and (value < limit if self.fine == "at least" else value > limit):
                return level
        return Level.TRAIN

    def limits(self) -> str:
        """The limits in words, such as 'at least 3 degrees; below 1 degree: stop'."""
        if self.fine_when is not None:
            return self.fine_when
        first, *second = (self.show(limit) for limit in (self.care, self.stop) if limit is not None)
        beyond = "below" if self.fine == "at least" else "above"
        return f"{self.fine} {first}" + (f"; {beyond} {second[0]}: stop" if second else "")


def care_limit(key: str) -> float | None:
    """Where 'train with care' begins for a measure."""
    return next(rule.care for rule in RULES if rule.key == key)


def _count(value: float) -> str:
    return f"{value:.0f}"


def _grey_levels(value: float) -> str:
    return f"{value:.1f} of 255"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _yes_or_no(value: float) -> str:
    return "yes" if value else "no"


def _per_1000_pixels(value: float) -> str:
    return f"{value:.2f} px per 1000"


_CHECK_MASKS = "Look at the masks below; where they are wrong, give your own with --masks."
_REFINE = "Use stronger --weights, and leave bundle adjustment on (--refine auto)."
_GIVE_FOCAL = "If the lens is known, give --focal-length."

RULES = (
    Rule(
        key="num_frames",
        title="Frames",
        fine="at least",
        care=8,
        stop=3,
        show=_count,
        reason="There are only {value} frames.",
        remedy="Use more of the clip: a higher --num-frames-target, or --fps.",
    ),
    Rule(
        key="clips_left_out",
        title="Clips that could not be joined",
        fine="at most",
        care=0,
        show=_count,
        reason="Of the clips that were given, {value} could not be joined to the others: the dataset is the largest "
        "part that could.",
        remedy="Film a transition between the clips, use more frames (--num-frames-target), or run each on its own.",
    ),
    Rule(
        key="stays",
        title="Camera stays in one place",
        fine="at most",
        stop=0,
        show=_yes_or_no,
        fine_when="no",
        reason="The camera stands still or only turns: its views hold no parallax, so no radiance field can be learned "
        "from them.",
        remedy="Use the dataset for its masks, or with a 4D method that takes depth (depth comes from a network only). "
        "For a radiance field, film again while walking.",
    ),
    Rule(
        key="picture_change",
        title="Change of the static picture",
        fine="at least",
        stop=1.5,
        show=_grey_levels,
        reason="The static part of the picture hardly changes throughout the clip (by {value}): the camera was on a "
        "tripod, or the scene has no texture.",
        remedy="Film again while walking; without a moving camera there is no 3D to learn.",
    ),
    Rule(
        key="parallax",
        title="Parallax",
        fine="at least",
        care=3.0,
        stop=1.0,
        show=degrees,
        reason="The camera hardly changes its place: the directions from which it sees a typical background point span "
        "{value}.",
        remedy="Film again while walking sideways past the scene; turning on the spot is not enough.",
        decisive=True,
    ),
    Rule(
        key="no_parallax",
        title="Background without parallax",
        fine="at most",
        care=0.3,
        show=percent,
        reason="Part of the clip has no parallax: {value} of the background points are seen from one direction only.",
        remedy="Cut away the part in which the camera stands or turns on the spot (--start, --end).",
    ),
    Rule(
        key="coverage",
        title="Moving part of the picture",
        fine="at most",
        care=0.5,
        stop=0.85,
        show=percent,
        reason="The masks cover {value} of the picture on average, so little is left to learn from.",
        remedy=_CHECK_MASKS + " A wider shot helps too.",
        decisive=True,
    ),
    Rule(
        key="rim",
        title="Rim of the picture that moves",
        fine="at most",
        care=0.75,
        show=percent,
        reason="What counts as moving takes up {value} of the rim of the picture and surrounds what counts as static: "
        "the cameras may follow something large that moves before a background that stands still.",
        remedy="Look at the masks below; where the background is marked, give your own with --masks.",
    ),
    Rule(
        key="surrounds",
        title="Rim that moves, over the picture that does",
        fine="at most",
        care=0.1,
        show=percent,
        reason="What counts as moving lies around what counts as static: it holds {value} more of the sides of the "
        "picture than of the picture. The cameras may follow something large that moves before a background that "
        "stands still.",
        remedy="Look at the masks below; where the background is marked, give your own with --masks.",
    ),
    Rule(
        key="flicker",
        title="Flicker of the masks",
        fine="at most",
        care=0.3,
        show=percent,
        reason="The masks flicker: their area jumps by {value} from frame to frame.",
        remedy=_CHECK_MASKS + " More frames per second (--fps) help where things move fast.",
    ),
    Rule(
        key="moving_outside",
        title="Motion just outside of the masks",
        fine="at most",
        care=0.67,
        show=percent,
        reason="The masks are too small all around: {value} of a ring around them moves like what is inside.",
        remedy=_CHECK_MASKS + " A larger --mask-growth helps where all of them are too small.",
    ),
    Rule(
        key="usable",
        title="Pixels with static, trusted depth",
        fine="at least",
        care=0.1,
        stop=0.02,
        show=percent,
        reason="Only {value} of the pixels are static and have a trusted depth.",
        remedy="Lower --min-confidence, check the masks, or use stronger --weights.",
        decisive=True,
    ),
    Rule(
        key="num_sparse",
        title="Triangulated points",
        fine="at least",
        care=500,
        stop=100,
        show=_count,
        reason="Only {value} points could be triangulated.",
        remedy="Film slower and with more light: sharp texture gives points.",
        decisive=True,
    ),
    Rule(
        key="jumps",
        title="Jumps of the camera",
        fine="at most",
        care=0.0,
        stop=0.15,
        show=percent,
        reason="The camera path jumps in {value} of its steps.",
        remedy="Look at the path below; cut the clip there (--start, --end), or use more frames.",
    ),
    Rule(
        key="roughness",
        title="Roughness of the camera path",
        fine="at most",
        care=1.0,
        show=_ratio,
        reason="The camera path is rough: its changes of direction are {value} times as large as its steps.",
        remedy="Leave bundle adjustment on (--refine auto), or smooth the path (--align.smooth-weight).",
    ),
    Rule(
        key="unregistered",
        title="Cameras that were not registered",
        fine="at most",
        care=0.1,
        stop=0.6,
        show=percent,
        reason="Bundle adjustment could not register {value} of the cameras.",
        remedy="Cut the clip to the part that worked (--start, --end), or use more frames.",
    ),
    Rule(
        key="unconstrained",
        title="Cameras without constraints",
        fine="at most",
        care=0.0,
        stop=0.3,
        show=percent,
        reason="For {value} of the frames, no pair of frames constrains the camera: these cameras are interpolated.",
        remedy="Leave these frames out (--start, --end), or use stronger --weights.",
    ),
    Rule(
        key="rotation_sigma",
        title="Uncertainty of the rotations",
        fine="at most",
        care=3.0,
        stop=10.0,
        show=degrees,
        reason="The cameras' rotations are uncertain by {value} (1 sigma).",
        remedy=_REFINE,
    ),
    Rule(
        key="position_sigma",
        title="Uncertainty of the positions, in depths",
        fine="at most",
        care=0.05,
        stop=0.2,
        show=percent,
        reason="The cameras' positions are uncertain by {value} of the typical depth (1 sigma).",
        remedy=_REFINE,
    ),
    Rule(
        key="depth_error",
        title="Disagreement of the depths",
        fine="at most",
        care=0.05,
        stop=0.25,
        show=percent,
        reason="The depths of different frames disagree by {value} where nothing moves.",
        remedy="Use stronger --weights, or check that the masks cover everything that moves.",
        decisive=True,
    ),
    Rule(
        key="colour_gain",
        title="Colour residual",
        fine="at most",
        care=0.75,
        stop=1.2,
        show=percent,
        reason="The cameras explain the picture badly: {value} of the colour change of static pixels remains when the "
        "camera motion is undone.",
        remedy=_REFINE,
        decisive=True,
    ),
    Rule(
        key="reprojection",
        title="Reprojection error",
        fine="at most",
        care=2.0,
        show=_per_1000_pixels,
        reason="Triangulated points have a reprojection error of {value} of image width.",
        remedy="Try another --camera-model, or give --focal-length.",
        decisive=True,
    ),
    Rule(
        key="fov",
        title="Field of view, narrow side",
        fine="at least",
        care=15.0,
        show=degrees,
        reason="The field of view seems to be {value} only: such telephoto lenses give little depth.",
        remedy=_GIVE_FOCAL,
    ),
    Rule(
        key="fov_without_fisheye",
        title="Field of view, wide side",
        fine="at most",
        care=110.0,
        show=degrees,
        reason="The field of view seems to be {value}, which only a fisheye lens has.",
        remedy="For an action camera, give --camera-model opencv-fisheye. " + _GIVE_FOCAL,
    ),
    Rule(
        key="focal_sigma",
        title="Uncertainty of the focal length",
        fine="at most",
        care=0.02,
        stop=0.2,
        show=percent,
        reason="The focal length is uncertain by {value} (1 sigma).",
        remedy=_GIVE_FOCAL + " More frames, and a camera that also turns, show it better.",
    ),
    Rule(
        key="focal_spread",
        title="Spread of the focal length",
        fine="at most",
        care=0.15,
        show=percent,
        reason="Single frames disagree about the focal length by {value}.",
        remedy=_GIVE_FOCAL,
    ),
    Rule(
        key="focal_change",
        title="Zoom that was not modelled",
        fine="at most",
        care=0.0,
        stop=0.4,
        show=percent,
        reason="One focal length was found for all frames, but those of single frames differ by {value}: the lens "
        "zooms, or the camera path is wrong.",
        remedy="If the lens zooms, use --align.no-shared-focal; if not, use more frames and give --focal-length.",
    ),
    Rule(
        key="depth_order",
        title="Order of depths: lower is nearer",
        fine="at least",
        care=-0.3,
        show=_ratio,
        reason="The scene may be inside out: what is lower in the picture is farther away (rank correlation {value}), "
        "and the pictures show too little perspective to tell.",
        remedy="Look at the points below: where the ground rises towards the camera, use more frames, and give "
        "--focal-length.",
    ),
    Rule(
        key="preview_weights",
        title="Cameras of preview weights",
        fine="at most",
        care=0,
        show=_yes_or_no,
        fine_when="no",
        reason="The cameras come from the weights that ship with the package, a preview: nothing is promised for real "
        "footage.",
        remedy="Use --weights dust3r or monst3r (non-commercial) for real clips.",
    ),
)
"""Every limit there is. How they were set: true cameras and depths of rendered rooms and of a real RGB-D walk stay far
inside (parallax 5 to 14 degrees, colour residual 0.1 to 0.4, roughness 0.2 to 0.6, depth disagreement below 0.5 %),
while a clip from a tripod and paths that are known to be wrong lie outside. That of the ring around the masks lies
half-way between true masks and masks that are 8 of 512 pixels too small (examples/results/masks.md). A zoom by half
that is not modelled loses frames and puts the focal length off by more than half (examples/results/zoom.md). A mover
that fills 79 % of the picture holds 41 % of its rim, one that fills 88 % holds 61 %. Of three sides of the picture,
masks of the background behind one hold 13 to 25 % more than of the picture, masks of the mover 36 % less
(examples/results/masks.md)."""
