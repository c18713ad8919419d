"""Which rows of options stand beside the numbers of arXiv:2503.24391, and what is known while they are run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from ..core.errors import InputError
from ..pipelines.geometric import NAME as NO_NETWORK
from ..pipelines.run import RunConfig

SETS = ("davis-16", "davis-17", "davis-all", "dycheck", "adt", "tum-dynamics")
Motion = Literal["auto", "attention"]
NO_MODEL = "none"
NETWORKS = {"dust3r": "DUSt3R", "monst3r": "MonST3R"}
"""Value of ``--weights`` -> how the paper names it."""
BASELINE = "plain"
"""In the name of a row: the network without the second, re-weighted pass."""


@dataclass(frozen=True)
class Wish:
    """What a user wants of the paper's tables."""

    weights: tuple[str, ...] = ("dust3r", "monst3r")
    motion: tuple[Motion, ...] = ("attention", "auto")
    refine_masks: tuple[str, ...] = (NO_MODEL, "sam2")
    sets: tuple[str, ...] = SETS

    def __post_init__(self) -> None:
        known = {"--sets": (self.sets, SETS), "--motion": (self.motion, get_args(Motion))}
        for option, (given, allowed) in known.items():
            for value in given:
                if value not in allowed:
                    raise InputError(f"{option} {value}: there are {', '.join(allowed)}")
        for option, given in (
            ("--weights", self.weights),
            ("--refine-masks", self.refine_masks),
            ("--sets", self.sets),
        ):
            if not given or "" in given:
                raise InputError(f"{option} is empty: give one or more names, with commas between")


@dataclass(frozen=True)
class Configuration:
    """One row of options."""

    weights: str
    motion: Motion
    refine_masks: str = NO_MODEL
    adapts: bool = True
    """False: the network alone, as its own authors run it."""

    @property
    def row(self) -> str:
        """Name of the row, and of its folder."""
        kind = self.motion if self.adapts else BASELINE
        masks = "" if self.refine_masks == NO_MODEL else f"+{Path(self.refine_masks).name}"
        return f"{Path(self.weights).stem}-{kind}{masks}"

    @property
    def method(self) -> str:
        """How the paper names it; other weights go by their own name."""
        name = NETWORKS.get(self.weights, self.weights)
        return f"Easi3R on {name}" if self.adapts else f"{name} (flow)"

    def of(self, base: RunConfig) -> RunConfig:
        """The options of a run: consecutive frames of the protocol, no bundle adjustment, the flow term as it is."""
        easi3r = replace(
            base.easi3r,
            weights=self.weights,
            motion=self.motion,
            refine_masks=self.refine_masks,
            no_adapt=not self.adapts,
        )
        frames = replace(base.frames, num_frames_target=0)
        return replace(base, frames=frames, easi3r=easi3r, refine=replace(base.refine, refine="none"))


def configurations(wish: Wish, name: str) -> list[Configuration]:
    """The rows of the set ``name``: with a model for masks where the paper has such numbers, the networks alone where
    it has cameras of them (its masks of the networks alone come from flow, which is another method)."""
    masks_only = name.startswith("davis")
    found = []
    for weights in wish.weights:
        if not masks_only and weights != NO_NETWORK:
            found.append(Configuration(weights, "attention", adapts=False))
        models = wish.refine_masks if masks_only else (NO_MODEL,)
        found += [Configuration(weights, motion, model) for motion in wish.motion for model in models]
    return found


@dataclass
class Paper:
    """What is known while the command works."""

    output_dir: Path
    wish: Wish
    smoke: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    """Set, or row of options, -> why it was not run."""
    tried: dict[str, str | None] = field(default_factory=dict)
    """Weights or model -> why it cannot be had; None: it can."""
    protocols: dict[str, str] = field(default_factory=dict)
