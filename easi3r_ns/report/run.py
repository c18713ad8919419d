"""What the report says about the run: the command, where the time went, warnings, the weights' licence."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.scene import Scene
from .page import code, facts, folded, section, table

_GROUPS: Mapping[str, tuple[str, type]] = {
    "frames": ("", FrameConfig),
    "easi3r": ("", Easi3RConfig),
    "dataset": ("", DatasetConfig),
    "refine": ("", RefineConfig),
    "align": ("align.", AlignConfig),
}
"""Part of the configuration -> prefix of its flags, and the class that knows the defaults."""


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


def run_section(scene: Scene) -> str:
    """Command, timings, warnings, weights, configuration."""
    provenance = scene.provenance
    parts = [
        code(command_text(provenance)),
        _warnings(provenance.get("warnings") or ()),
        _timings(provenance.get("stages") or ()),
        _weights(provenance.get("weights") or {}),
        folded("Every option of this run", code(json.dumps(provenance.get("config"), indent=1, default=str))),
    ]
    return section("run", "The run", "This command makes the same dataset again.", parts)


def _flag(prefix: str, name: str, value: Any) -> list[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{prefix}{'' if value else 'no-'}{dashed}"]
    return [f"--{prefix}{dashed}", f"{value:g}" if isinstance(value, float) else str(value)]


def _warnings(warnings: Any) -> str:
    if not warnings:
        return "<h3>Warnings</h3><p>None.</p>"
    items = "".join(f"<li>{escape(str(warning))}</li>" for warning in warnings)
    return f'<h3>Warnings</h3><ul class="warnings">{items}</ul>'


def _timings(stages: Any) -> str:
    if not stages:
        return "<h3>Time and memory</h3><p>Not recorded.</p>"
    longest = max(stage["seconds"] for stage in stages) or 1.0
    rows = []
    for stage in stages:
        width = 100 * stage["seconds"] / longest
        bar = f'<span class="bar" style="width:{width:.1f}%"></span>'
        rows.append((escape(str(stage["name"])), *_cost(stage["seconds"], stage["cpu_seconds"], _gib(stage)), bar))
    total = [sum(stage[key] for stage in stages) for key in ("seconds", "cpu_seconds")]
    rows.append(("in all", *_cost(*total, max(_gib(stage) for stage in stages)), ""))
    head = ("stage", "seconds", "CPU s", "peak GiB", "")
    return "<h3>Time and memory</h3>" + table(head, rows, "numbers")


def _cost(seconds: float, cpu_seconds: float, gibibytes: float) -> tuple[str, str, str]:
    return f"{seconds:.1f}", f"{cpu_seconds:.1f}", f"{gibibytes:.2f}"


def _gib(stage: Mapping[str, Any]) -> float:
    return stage["peak_memory_bytes"] / 2**30


def _weights(weights: Mapping[str, Any]) -> str:
    if weights.get("name") in (None, "none"):
        return "<h3>Weights</h3><p>No network made this scene, or none is recorded: no licence of weights applies.</p>"
    licence = str(weights.get("licence") or "unknown")
    rows = [("name", str(weights.get("name") or "unknown")), ("licence", licence)]
    if weights.get("num_parameters"):
        rows.append(("parameters", f"{weights['num_parameters']:,}"))
    if weights.get("sha256"):
        rows.append(("SHA-256", str(weights["sha256"])[:16] + "..."))
    remark = ""
    if weights.get("non_commercial"):
        remark = "<p>These weights are non-commercial, and so is what is made with them.</p>"
    return f"<h3>Weights</h3>{remark}{facts(rows)}"
