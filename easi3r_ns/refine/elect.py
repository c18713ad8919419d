"""Which cameras of a clip are kept, where mapping on what the masks leave does not stand alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.geometry import FisheyeDistortion, fisheye_slope
from ..core.runlog import RunLog
from .held import HeldOut, between
from .model import Correspondences, Lens, SparseModel
from .place import place_missing
from .score import MIN_HELD_OUT, score_cameras

MASKED = "mapping"
"""Name of the first candidate: mapping of what the masks leave."""
MUCH_MASKED = 0.15
"""Mean share of the picture from which masks are doubted: mapping without them stands for election too."""
PLAUSIBLE_FOCAL = (0.4, 3.0)
"""Focal lengths in longer sides of the image (14 to 108 mm on 35 mm film) outside which a lens counts as degenerate,
unless its focal length was told."""
NEAR_TOLD = 1.5
"""Factor within which a focal length confirms the one that was told."""
COMPARABLE = 1.25
"""Factor between the costs per frame of two candidates up to which the one with more frames wins. Costs are compared
where both have cameras; 60 frames may cost 60/48 of what 48 do."""
CLEARLY = 1.15
"""Factor by which a later candidate with as many frames must be better than an earlier one."""
MUCH_BETTER = 2.0
"""Factor by which a candidate with fewer frames must be better; it must still have half of them (:data:`MIN_SHARE`)."""
MIN_SHARE = 0.5


@dataclass(frozen=True)
class Mapped:
    """A candidate for the cameras of a clip."""

    name: str
    model: SparseModel
    told_focal: float | None = None
    """Focal length in source pixels that the user or the camera's metadata give."""

    @property
    def degenerate(self) -> bool:
        """See :func:`degenerate`."""
        lenses, seen = self.model.lenses, np.flatnonzero(self.model.registered).tolist()
        used = [self.model.lens] if lenses is None else [lenses.lenses[k] for k in {lenses.index[f] for f in seen}]
        return any(degenerate(lens, self.told_focal) for lens in used)

    @property
    def placed(self) -> int:
        """Number of frames with a camera."""
        return int(self.model.registered.sum())


@dataclass(frozen=True)
class Rival:
    """A mapping that is made when it is needed."""

    name: str
    found: Callable[[], Correspondences]
    """The matches that it is made from; those that are held out are taken away from them."""
    mapped: Callable[[Correspondences], SparseModel | None]
    doubts_masks: bool = False
    """Whether it is also made where all frames are placed, but the masks cover much."""
    needs_cameras: bool = False
    """Whether it is made only where another one gave cameras: it takes long, and to nothing, without parallax."""


def elect_model(
    first: SparseModel | None,
    found: Correspondences,
    rivals: Iterable[Rival],
    log: RunLog,
    *,
    doubted: bool,
    seed: int,
    told_focal: float | None = None,
) -> SparseModel | None:
    """The model of ``first`` (mapping of ``found``) or of a rival that beats it; ``record`` says which and why.

    A rival is made only while frames are missing or, where it ``doubts_masks``, the masks are ``doubted``. It does not
    see the tracks of ``found`` that are held out and decide; ``first`` may have seen them, so that a tie is its own.
    Frames that the winner lacks are placed by :func:`~easi3r_ns.refine.place.place_missing` where held-out matches
    confirm them.

    Args:
        told_focal: in source pixels, where the user or the camera's metadata give one.

    Returns:
        None where no candidate has cameras.
    """
    rivals = list(rivals)
    if first is not None and first.registered.all() and not (doubted and any(r.doubts_masks for r in rivals)):
        return _recorded(first, MASKED, "it places every frame", [], None)
    best = None if first is None else Mapped(MASKED, first, told_focal)
    candidates = [] if best is None else [best]
    held, source, why = HeldOut.of(found, seed), found, "no other mapping gives cameras"
    for rival in rivals:
        if best is None and rival.needs_cameras:
            continue
        if best is not None and best.model.registered.all() and not (doubted and rival.doubts_masks):
            continue
        matches = rival.found()
        if matches is not found and held.other is None:
            held = held.with_other(matches, seed)
        model = rival.mapped(held.taken_from(matches))
        if model is None:
            continue
        before, candidate = best, Mapped(rival.name, model, told_focal)
        candidates.append(candidate)
        if before is not None:
            best, reason = better(before, candidate, held)
            # That of the winner stays; of one that only defended itself, the last.
            why = reason if best is candidate or before.name == MASKED else why
        elif stands_alone(candidate, held):
            best = candidate
            why = f"{holding(best, held)} of {len(model.registered)} frames hold; mapping before it gave no cameras"
        if best is not before:
            source = matches
    if best is None:
        return None
    completed = place_missing(best.model, source, held, seed)
    if (added := int(completed.registered.sum()) - best.placed) > 0:
        why += f"; {added} more frames placed one by one"
    log.detail(f"cameras of {best.name} kept: {why}")
    return _recorded(completed, best.name, why, candidates, held)


def better(best: Mapped, rival: Mapped, held: HeldOut) -> tuple[Mapped, str]:
    """The better of two, and why.

    They are compared where both have cameras, so that a hard frame does not count against the one that places it.

    Args:
        held: matches that ``rival`` has not seen.
    """
    if rival.degenerate:
        return best, f"the lens of {rival.name} is degenerate"
    if best.degenerate:
        return (rival if stands_alone(rival, held) else best), f"the lens of {best.name} is degenerate"
    ours, theirs = holding(best, held), holding(rival, held)
    told = f"{theirs} of {len(rival.model.registered)} frames of {rival.name} hold against {ours}"
    common = best.model.registered & rival.model.registered
    shared = between(held.static, common)
    if shared.num_matches < MIN_HELD_OUT:
        return (rival if theirs > ours else best), f"{told}; they have too little in common to compare errors"
    costs = [score_cameras(c.model.T_world_cam, c.model.optics, shared, common) for c in (best, rival)]
    ratio = costs[1].cost / max(costs[0].cost, 1e-12)
    if theirs > ours:
        wins = ratio <= COMPARABLE * theirs / max(ours, 1)
    elif theirs == ours:
        wins = ratio < 1 / CLEARLY
    else:
        wins = ratio < 1 / MUCH_BETTER and theirs >= MIN_SHARE * ours
    errors = f"held-out error {costs[1].epipolar_px:.2f} px against {costs[0].epipolar_px:.2f}, cost x {ratio:.2f}"
    return (rival if wins else best), f"{told}; {errors}"


def holding(candidate: Mapped, held: HeldOut) -> int:
    """Number of frames whose cameras the held-out matches confirm."""
    return int(held.confirmed(candidate.model).sum())


def stands_alone(candidate: Mapped, held: HeldOut) -> bool:
    """Whether cameras may be believed that nothing is compared with: at least half of all frames hold, plausible lens.

    A clip without parallax gives poor cameras where more is tolerated; none are better.
    """
    return not candidate.degenerate and holding(candidate, held) >= MIN_SHARE * len(candidate.model.registered)


def degenerate(lens: Lens, told_focal: float | None = None) -> bool:
    """Whether no camera has such a lens: the focal length is implausible, or distortion folds the picture.

    ``told_focal``: a focal length near this one, in source pixels, is plausible in any case.
    """
    side = max(lens.width, lens.height)
    near_told = told_focal is not None and told_focal / NEAR_TOLD <= lens.focal <= told_focal * NEAR_TOLD
    if not (near_told or PLAUSIBLE_FOCAL[0] * side <= lens.focal <= PLAUSIBLE_FOCAL[1] * side):
        return True
    radius = np.linspace(0, np.hypot(lens.width, lens.height) / 2 / lens.focal, 50)
    if isinstance(lens.distortion, FisheyeDistortion):
        return bool((fisheye_slope(np.minimum(radius, np.pi / 2), lens.distortion) <= 0).any())
    k1, k2 = lens.distortion[:2]
    return bool((1 + 3 * k1 * radius**2 + 5 * k2 * radius**4 <= 0).any())


def _recorded(model: SparseModel, name: str, why: str, candidates: list[Mapped], held: HeldOut | None) -> SparseModel:
    record: dict[str, Any] = {"kept": name, "why": why, "frames": int(model.registered.sum())}
    if held is not None:
        record |= {
            "held_out_matches": held.static.num_matches,
            "candidates": {c.name: _facts(c, held) for c in candidates},
        }
    return replace(model, record=record)


def _facts(candidate: Mapped, held: HeldOut) -> dict[str, Any]:
    model = candidate.model
    facts: dict[str, Any] = {
        "frames": candidate.placed,
        "focal": model.focal,
        "degenerate_lens": candidate.degenerate,
    }
    if facts["degenerate_lens"]:
        return facts
    score = score_cameras(model.T_world_cam, model.optics, between(held.static, model.registered), model.registered)
    error = score.epipolar_px if np.isfinite(score.epipolar_px) else None
    return facts | {
        "frames_that_hold": holding(candidate, held),
        "epipolar_px": error,
        "track_length": score.track_length,
    }
