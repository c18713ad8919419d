"""Which of the pixels of the user's masks move: the white or the black ones.

Tools disagree: nerfstudio and COLMAP leave black pixels out, instant-ngp white ones, and here white moves. A clip can
tell: what moves breaks the motion of the camera that the rest follows, and it holds little of the picture's rim.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import rankdata

from ..core.config import Easi3RConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import Frames
from ..frames.near import Shot, shot
from ..frames.user_masks import MarkedFrames
from .flow.dis import DISFlow
from .flow.provider import FlowProvider
from .two_view.plan import choose_step, plan_pairs
from .two_view.residual import Pictures, by_two_views, choose_kinds, follow_pairs

LOOKED_AT = 6
"""Frames in which flow is compared with the masks."""
SIDE = 256
"""Pixels of the longer side of the images in which flow is estimated for this, about, at most."""
FLOW_TELLS = 0.7
"""Probability that a pixel of one side of the masks breaks the camera's motion more than one of the other side, from
which on flow tells which side moves: half-way between chance and the weakest of the clips in
examples/results/masks.md."""
RIM_MOVES, RIM_STANDS = 0.4, 0.75
"""Share of the picture's rim that white holds: up to the first it looks like what moves, from the second on like the
background. A mover that fills 60 % of the picture holds about half of the rim, see examples/results/masks.md."""
_CLEAR = (0.002, 0.998)
"""Share of a frame that is white, outside of which the frame shows nothing."""
_EVERY = 5
"""Of so many pixels one is compared."""
_FEWEST = 20
"""Compared pixels on each side of a mask."""


@dataclass(frozen=True)
class Evidence:
    """What a clip says about its masks."""

    flow: float | None
    """Probability that a white pixel breaks the camera's motion more than a black one; None: flow does not tell."""
    rim: float
    """Share of the picture's rim that is white."""
    share: float
    """Share of the picture that is white."""

    @property
    def votes(self) -> tuple[int, int]:
        """Flow's and the rim's vote: 1 for white moves, -1 for black moves, 0 for neither."""
        flow = 0 if self.flow is None else int(self.flow >= FLOW_TELLS) - int(self.flow <= 1 - FLOW_TELLS)
        return flow, int(self.rim <= RIM_MOVES) - int(self.rim >= RIM_STANDS)

    def __str__(self) -> str:
        flow = "flow does not tell which side moves"
        if self.flow is not None:
            flow = f"white pixels break the camera's motion more than black ones in {100 * self.flow:.0f} % of cases"
        return f"{flow}, white holds {100 * self.rim:.0f} % of the rim and {100 * self.share:.0f} % of the picture"


def white_moves(marked: MarkedFrames, frames: Frames, config: Easi3RConfig, log: RunLog) -> bool:
    """Whether the marked pixels move, by ``--masks-polarity``, or for ``auto`` by the masks; the log says why.

    Raises:
        InputError: the masks do not tell, or contradict the record of the dataset that they come from.
    """
    assert config.masks is not None
    if config.masks_polarity != "auto":
        return config.masks_polarity == "white-moves"
    if marked.objects:
        log.info(f"--masks {config.masks}: masks of objects; what is an object moves")
        return True
    full = (marked.share > 127)[~marked.missing].mean(axis=(1, 2))
    if not (full > _CLEAR[0]).any():
        log.info(f"--masks {config.masks}: nothing is white in them, so nothing moves")
        return True
    found = evidence(marked, frames, DISFlow())
    flow, rim = found.votes
    if marked.dataset is not None:
        if flow + rim > 1:
            raise _doubt(config.masks, f"{marked.dataset} says that black moves, but {found}")
        log.info(f"--masks {config.masks}: masks of a dataset ({marked.dataset}), so black moves")
        return False
    if flow + rim > 0:
        log.info(f"--masks {config.masks}: white moves ({found})")
        return True
    if rim != -1 or flow == 1:  # flow alone does not turn masks round: it may follow a mover that fills the picture
        raise _doubt(config.masks, str(found))
    log.warn(
        f"--masks {config.masks}: black moves, as in masks of nerfstudio and COLMAP ({found}). --masks-polarity "
        "white-moves, if this is wrong"
    )
    return False


def _doubt(masks: Path, why: str) -> InputError:
    option = f"--masks {shlex.quote(str(masks))} --masks-polarity"
    return InputError(
        f"--masks {masks}: it is not clear whether white or black moves ({why}): give {option} white-moves or {option} "
        "black-moves"
    )


def evidence(marked: MarkedFrames, frames: Frames, provider: FlowProvider) -> Evidence:
    """What flow, the rim of the picture and the size of what is white say; missing masks do not count."""
    white = marked.share > 127
    shares = white.mean(axis=(1, 2))
    known = np.flatnonzero(~marked.missing)
    seen = known[(shares[known] > _CLEAR[0]) & (shares[known] < _CLEAR[1])]
    sides = [edge[known].reshape(-1) for edge in (white[:, 0], white[:, -1], white[:, :, 0], white[:, :, -1])]
    flow = None
    # Evaluation views are no part of the clip's flow.
    first = frames.first_source
    rows = np.intersect1d(seen, first)
    if len(rows) and len(first) > 1:
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).round().astype(int))]
        clip = shot(frames, range(len(first)), frames.images.__getitem__, frames.pixel_map)
        flow = _flow_says(_small(clip, chosen), white, chosen, provider)
    return Evidence(flow, float(np.concatenate(sides).mean()), float(shares[known].mean()))


def _small(whole: Shot, rows: np.ndarray) -> Shot:
    """The frames ``rows`` of a shot with all other frames around them, in images of :data:`SIDE` pixels at most."""

    def image(place: int) -> np.ndarray:
        picture = whole.image(place)
        factor = SIDE / max(picture.shape[:2])
        return picture if factor >= 1 else cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)

    return replace(whole.with_frames(rows), image=image)


def _flow_says(looked: Shot, white: np.ndarray, rows: np.ndarray, provider: FlowProvider) -> float | None:
    """Mean over pairs of the probability that a white pixel has a larger residual than a black one."""
    plan = plan_pairs(looked, (1,), choose_step(looked, provider))
    pictures = Pictures(looked)
    kinds = choose_kinds(plan, pictures, len(rows), provider)
    row = dict(zip(looked.places.tolist(), rows.tolist(), strict=True))
    found = []
    for motion in follow_pairs(plan, pictures, by_two_views(kinds), provider, lambda _: None):
        for side, place in enumerate(motion.pair):
            if place in row and motion.residuals is not None:
                agree = motion.agree[side]
                size = agree.shape[::-1]
                mask = cv2.resize(white[row[place]].astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
                residual = motion.residuals[side]
                found.append(_probability(residual[agree & mask][::_EVERY], residual[agree & ~mask][::_EVERY]))
    told = [value for value in found if value is not None]
    return float(np.mean(told)) if told else None


def _probability(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float | None:
    """That a value of the first sample exceeds one of the second, ties by half (Mann and Whitney, 1947)."""
    if min(len(first), len(second)) < _FEWEST:
        return None
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.mean() - (len(first) + 1) / 2) / len(second))
