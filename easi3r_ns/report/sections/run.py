"""What the report says about the run: the command, where the time went, warnings, the weights' licence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.improve import change_lines
from ...core.runlog import stage_words
from ..command import command_text
from ..contents import Fact


@dataclass(frozen=True)
class StageCost:
    """Time and memory of one stage of the run."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_gib: float
    share: float
    """Seconds over those of the longest stage."""


@dataclass(frozen=True)
class RunSection:
    """How the dataset was made."""

    command: str
    warnings: tuple[str, ...]
    stages: tuple[StageCost, ...]
    """Empty where no timings are recorded."""
    weights: tuple[Fact, ...]
    """Empty where no network was used."""
    choice: str
    """What --weights auto chose and why; empty where the weights were named."""
    non_commercial: bool
    """Whether the weights, and with them the dataset, are for non-commercial use."""
    improved: tuple[Fact, ...]
    """What became of the cameras, masks and depth of another program; empty where they were not to be improved."""
    options: str
    """The whole configuration as JSON."""


def run_section(provenance: Mapping[str, Any]) -> RunSection:
    """Command, timings, warnings, weights and configuration, from the provenance of a scene."""
    weights, prior = provenance.get("weights") or {}, provenance.get("depth_prior") or {}
    refined, named = provenance.get("refined_masks") or {}, provenance.get("named_masks") or {}
    return RunSection(
        command=command_text(provenance),
        warnings=tuple(str(warning) for warning in provenance.get("warnings") or ()),
        stages=_stage_costs(provenance.get("stages") or ()),
        weights=_weights(weights)
        + _model("depth prior", prior)
        + _model("refined masks", refined)
        + _model("things by name", named),
        choice=str((provenance.get("weights_choice") or {}).get("line") or ""),
        non_commercial=any(facts.get("non_commercial") for facts in (weights, prior, refined, named)),
        improved=tuple(Fact(name, words) for name, words in change_lines(provenance["improved"]))
        if provenance.get("improved")
        else (),
        options=json.dumps(provenance.get("config"), indent=1, default=str),
    )


def _stage_costs(stages: Sequence[Mapping[str, Any]]) -> tuple[StageCost, ...]:
    longest = max((stage["seconds"] for stage in stages), default=0.0) or 1.0
    return tuple(
        StageCost(
            name=stage_words(str(stage["name"])),
            seconds=stage["seconds"],
            cpu_seconds=stage["cpu_seconds"],
            peak_gib=stage["peak_memory_bytes"] / 2**30,
            share=stage["seconds"] / longest,
        )
        for stage in stages
    )


def _model(use: str, facts: Mapping[str, Any]) -> tuple[Fact, ...]:
    """An optional model and its licence; nothing without one."""
    if not facts:
        return ()
    return Fact(use, str(facts["model"])), Fact("its licence", str(facts["licence"]))


def _weights(weights: Mapping[str, Any]) -> tuple[Fact, ...]:
    if weights.get("name") in (None, "none"):
        return ()
    facts = [Fact("name", str(weights["name"])), Fact("licence", str(weights.get("licence") or "unknown"))]
    if weights.get("num_parameters"):
        facts.append(Fact("parameters", f"{weights['num_parameters']:,}"))
    if weights.get("sha256"):
        facts.append(Fact("SHA-256", str(weights["sha256"])[:16] + "..."))
    return tuple(facts)
