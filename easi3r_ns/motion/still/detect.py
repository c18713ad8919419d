"""Does the camera stand still, only turn, or travel?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from ...core.runlog import RunLog
from .lens import EquidistantLens, PinholeLens
from .tracks import CornerMatches, follow_corners, num_pairs
from .turning import FOCAL_SPREAD, Turning, fit_turning, turn_errors
from .zooming import fit_zooming

Kind = Literal["fixed", "turning", "travelling"]
FocalSource = Literal["given", "turn", "metadata", "default"]

WORK_SIDE = 512
"""Pixels of the longer side of the images, about, for which the limits in pixels below hold."""
TOLERANCE_PX = 0.5
"""A corner is explained when it is seen this close to where the camera's turn puts it: about three deviations of a
followed corner. Parallax of half a pixel is a twentieth of a degree, of no use for mapping."""
EXPLAINED = 0.85
"""Share of the static corners, over the longer gaps, that must be explained. The rest was moved or covered."""
EXPLAINED_OF_ALL = {"fixed": 0.5, "turning": 0.7}
"""The same of all corners, moving ones included: masks may hide the parallax of what is near. A turn can follow the
parallax of what is far, a camera that stands still cannot."""
EXPLAINED_PER_FRAME = 0.5
"""The same of the static corners of every single frame, so that no part of the clip travels."""
LONG_GAP = 0.125
"""Share of the clip from which on a gap is long: parallax accumulates, the noise does not."""
FOCAL_KNOWN = 0.05
"""A focal length with a smaller relative deviation than this is taken from the turn."""
FOCAL_RANGE = (0.4, 3.0)
"""Focal lengths over the longer side that are believed. Sideways travel along a wall looks like the turn of a very long
lens."""
ZOOM_CHANGE = 0.08
"""Relative change of the focal length that counts as a zoom; refocusing changes it by a few per cent at most."""
HARDLY_DEGREES = 0.5
"""Where mapping has failed: cameras hardly travel when this parallax explains what a turn does not."""


@dataclass(frozen=True)
class CameraMotion:
    """What the camera of a clip does."""

    kind: Kind
    R: np.ndarray
    """(F, 3, 3) camera-to-world rotations with OpenCV axes, the first the identity; all are where nothing turns, and
    for a camera that travels."""
    focal: float
    """Horizontal focal length in pixels of the images that were looked at."""
    focal_sigma: float
    """Its relative standard deviation; 0 where it was given."""
    focal_source: FocalSource
    """Given by the user, estimated from the turn, named by the clip's file, or a guess."""
    explained: float
    """Share of the static corners that this motion explains over long gaps."""
    error_px: float
    """Pixels within which :data:`EXPLAINED` of the static corners are explained: noise, and what parallax is left."""
    nearly: bool = False
    """Of a camera that travels: its parallax is below :data:`HARDLY_DEGREES`."""
    focals: np.ndarray | None = None
    """(F,) focal length of every frame, where the lens zooms; ``focal`` is then their geometric mean."""
    equidistant: bool = False
    """Whether the lens was taken to be an equidistant fisheye instead of a pinhole."""
    if_zooming: CameraMotion | None = None
    """Of a camera that travels: the turn of a camera that does not, whose lens zooms, where that explains the pictures
    as well. It may be the truth, or the camera travels straight towards something flat."""

    @property
    def stays(self) -> bool:
        """Whether the camera's centre stays where it is."""
        return self.kind != "travelling"

    @property
    def error_degrees(self) -> float:
        """:attr:`error_px` as an angle in the middle of the picture."""
        return float(np.degrees(np.arctan(self.error_px / self.focal)))


def detect_camera_motion(
    grey: Sequence[np.ndarray], moving: np.ndarray, lens: PinholeLens, log: RunLog, *, fixed_focal: bool
) -> CameraMotion:
    """Tell cameras that stand still or only turn from those that travel; when in doubt, they travel.

    Corners are followed over gaps of all lengths, and one rotation per frame with one focal length is fitted to all
    that lie outside the masks. The camera travels where that leaves more than the noise of a followed corner.

    Args:
        grey: F images (H, W) uint8 of about :data:`WORK_SIDE` pixels.
        moving: (F, H, W) bool.
        lens: with the user's focal length (``fixed_focal``), or with a guess.

    Returns:
        The motion. ``kind`` 'travelling' still has the error of the best turn.
    """
    with log.stage("does the camera stand still", num_pairs(len(grey))) as advance:
        if len(grey) < 2:
            return _travels(len(grey), lens)
        return judge(follow_corners(grey, moving, advance), len(grey), lens, max(grey[0].shape), fixed_focal)


def judge(
    matches: CornerMatches, num_frames: int, lens: PinholeLens, longer_side: int, fixed_focal: bool
) -> CameraMotion:
    """:func:`detect_camera_motion` for corners that were followed; ``longer_side`` of the images in pixels."""
    static = matches.chosen(matches.static)
    fixed = Turning(np.tile(np.eye(3), (num_frames, 1, 1)), lens, 0.0 if fixed_focal else FOCAL_SPREAD)
    if _explains(fixed, matches, EXPLAINED_OF_ALL["fixed"]):
        return _motion("fixed", fixed, static, "given" if fixed_focal else "default")
    turning = fit_turning(static, num_frames, lens, fixed_focal=fixed_focal)
    if turning is None:
        return _travels(num_frames, lens)
    source: FocalSource = "given" if fixed_focal else "turn"
    if not fixed_focal and turning.focal_sigma > FOCAL_KNOWN:
        kept = fit_turning(static, num_frames, lens, fixed_focal=True)
        assert kept is not None, "its frames are joined"
        turning, source = replace(kept, focal_sigma=FOCAL_SPREAD), "default"
    low, high = (share * longer_side for share in FOCAL_RANGE)
    believed = fixed_focal or low <= turning.lens.focal <= high
    if believed and _explains(turning, matches, EXPLAINED_OF_ALL["turning"]):
        return _motion("turning", turning, static, source)
    hardly = turning.lens.focal * float(np.tan(np.radians(HARDLY_DEGREES)))
    nearly = believed and _explains(turning, matches, EXPLAINED_OF_ALL["fixed"], hardly)
    zooms = not fixed_focal and not isinstance(lens, EquidistantLens)  # a fisheye has one focal length
    zooming = None if not zooms else _zooming(matches, static, num_frames, lens, longer_side)
    return replace(_motion("travelling", turning, static, source), nearly=nearly, if_zooming=zooming)


def _zooming(
    matches: CornerMatches, static: CornerMatches, num_frames: int, lens: PinholeLens, longer_side: int
) -> CameraMotion | None:
    """The motion of a camera that stays in its place while its lens zooms; None where that does not explain it."""
    fit = fit_zooming(static, num_frames, lens)
    if fit is None or fit.focals.max() < (1 + ZOOM_CHANGE) * fit.focals.min():
        return None
    low, high = (share * longer_side for share in FOCAL_RANGE)
    mean = float(np.exp(np.log(fit.focals).mean()))
    kind: Kind = "turning"
    if mean * Rotation.from_matrix(fit.R).magnitude().max() < TOLERANCE_PX:
        kind, fit = "fixed", replace(fit, R=np.tile(np.eye(3), (num_frames, 1, 1)))
    of_all = EXPLAINED_OF_ALL[kind]
    if not low <= mean <= high or not _all_explained(fit.errors(matches), matches, num_frames, of_all):
        return None
    turning = Turning(fit.R, replace(lens, focal=mean), fit.focal_sigma)
    source: FocalSource = "turn" if fit.focal_sigma <= FOCAL_KNOWN else "default"
    return replace(_motion(kind, turning, static, source, fit.errors(static)), focals=fit.focals)


def as_turning(motion: CameraMotion) -> CameraMotion | None:
    """The motion of a camera that nearly only turns as that of one that does; None for one that travels further."""
    return replace(motion, kind="turning", nearly=True) if motion.stays or motion.nearly else None


def _explains(turning: Turning, matches: CornerMatches, of_all: float, tolerance_px: float = TOLERANCE_PX) -> bool:
    return _all_explained(turn_errors(matches, turning), matches, len(turning.R), of_all, tolerance_px)


def _all_explained(
    errors: np.ndarray, matches: CornerMatches, num_frames: int, of_all: float, tolerance_px: float = TOLERANCE_PX
) -> bool:
    good = errors < tolerance_px
    long = _long(matches, num_frames)
    static = matches.static
    if not (long & static).any() or good[long & static].mean() < EXPLAINED or good[long].mean() < of_all:
        return False
    seen, explained = (
        sum(np.bincount(side[which], minlength=num_frames) for side in (matches.first, matches.second))
        for which in (static, static & good)
    )
    return bool((explained >= EXPLAINED_PER_FRAME * np.maximum(seen, 1)).all())


def _long(matches: CornerMatches, num_frames: int) -> np.ndarray:
    """(M,) bool; where flow follows no long gap, the longest that it follows."""
    gap = matches.second - matches.first
    return gap >= min(max(1, LONG_GAP * num_frames), gap.max(initial=1))


def _motion(
    kind: Kind, turning: Turning, static: CornerMatches, source: FocalSource, errors: np.ndarray | None = None
) -> CameraMotion:
    errors = turn_errors(static, turning) if errors is None else errors
    error = errors[_long(static, len(turning.R))]
    return CameraMotion(
        kind=kind,
        R=turning.R,
        focal=turning.lens.focal,
        focal_sigma=turning.focal_sigma,
        focal_source=source,
        explained=float((error < TOLERANCE_PX).mean()) if len(error) else 0.0,
        error_px=float(np.quantile(error, EXPLAINED)) if len(error) else float("inf"),
        equidistant=isinstance(turning.lens, EquidistantLens),
    )


def _travels(num_frames: int, lens: PinholeLens) -> CameraMotion:
    """For clips that cannot be followed."""
    R = np.tile(np.eye(3), (num_frames, 1, 1))
    equidistant = isinstance(lens, EquidistantLens)
    return CameraMotion(
        "travelling", R, lens.focal, FOCAL_SPREAD, "default", 0.0, float("inf"), equidistant=equidistant
    )
