"""What the report says about the run: the command, where the time went, warnings, the weights' licence."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..contents import Fact

_GROUPS: Mapping[str, tuple[str, type]] = {
    "frames": ("", FrameConfig),
    "easi3r": ("", Easi3RConfig),
    "dataset": ("", DatasetConfig),
    "refine": ("", RefineConfig),
    "align": ("align.", AlignConfig),
}
"""Part of the configuration -> prefix of its flags, and the class that knows the defaults."""


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
    options: str
    """The whole configuration as JSON."""


def run_section(provenance: Mapping[str, Any]) -> RunSection:
    """Command, timings, warnings, weights and configuration, from the provenance of a scene."""
    weights = provenance.get("weights") or {}
    return RunSection(
        command=command_text(provenance),
        warnings=tuple(str(warning) for warning in provenance.get("warnings") or ()),
        stages=_stage_costs(provenance.get("stages") or ()),
        weights=_weights(weights),
        choice=str((provenance.get("weights_choice") or {}).get("line") or ""),
        non_commercial=bool(weights.get("non_commercial")),
        options=json.dumps(provenance.get("config"), indent=1, default=str),
    )


def command_text(provenance: Mapping[str, Any]) -> str:
    """The command that makes the same dataset: the source and every option that is not at its default."""
    words = ["ns-process-data", "easi3r", "--data", str(provenance.get("source") or "CLIP"), "--output-dir", "OUT"]
    config = provenance.get("config") or {}
    if config.get("eval_data"):
        words += ["--eval-data", str(config["eval_data"])]
    for group, (prefix, options) in _GROUPS.items():
        chosen = config.get(group) or {}
        for option in dataclasses.fields(options):
            if option.name in chosen and chosen[option.name] != option.default:
                words += _flag(prefix, option.name, chosen[option.name])
    return shlex.join(words)


def _flag(prefix: str, name: str, value: Any) -> list[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{prefix}{'' if value else 'no-'}{dashed}"]
    return [f"--{prefix}{dashed}", f"{value:g}" if isinstance(value, float) else str(value)]


def _stage_costs(stages: Sequence[Mapping[str, Any]]) -> tuple[StageCost, ...]:
    longest = max((stage["seconds"] for stage in stages), default=0.0) or 1.0
    return tuple(
        StageCost(
            name=str(stage["name"]),
            seconds=stage["seconds"],
            cpu_seconds=stage["cpu_seconds"],
            peak_gib=stage["peak_memory_bytes"] / 2**30,
            share=stage["seconds"] / longest,
        )
        for stage in stages
    )


def _weights(weights: Mapping[str, Any]) -> tuple[Fact, ...]:
    if weights.get("name") in (None, "none"):
        return ()
    facts = [Fact("name", str(weights["name"])), Fact("licence", str(weights.get("licence") or "unknown"))]
    if weights.get("num_parameters"):
        facts.append(Fact("parameters", f"{weights['num_parameters']:,}"))
    if weights.get("sha256"):
        facts.append(Fact("SHA-256", str(weights["sha256"])[:16] + "..."))
    return tuple(facts)
