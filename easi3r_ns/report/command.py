"""The command that made a dataset, as it would be typed again, from the provenance of its scene."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.improve import ImproveConfig
from ..importers.recording import ImportOptions

GROUPS: Mapping[str, tuple[str, type]] = {
    "frames": ("", FrameConfig),
    "easi3r": ("", Easi3RConfig),
    "dataset": ("", DatasetConfig),
    "refine": ("", RefineConfig),
    "align": ("align.", AlignConfig),
    "import": ("", ImportOptions),
    "improve": ("", ImproveConfig),
}
"""Part of the configuration -> prefix of its flags, and the class that knows the defaults."""


def command_text(
    provenance: Mapping[str, Any], output: Path | str = "OUT", changes: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """The command of the run: the clip, and every option that is not at its default.

    Args:
        output: value of ``--output-dir``.
        changes: part of the configuration -> name of a field -> value in place of the one that the run had; a command
            with changes replaces the dataset (``--overwrite``).
    """
    theirs = ["easi3r", "improve" if "improved" in provenance else "import"]
    begins = theirs if "imported" in provenance else ["ns-process-data", "easi3r", "--data"]
    words = [*begins, *sources(provenance), "--output-dir", str(output)]
    config = provenance.get("config") or {}
    if config.get("eval_data"):
        words += ["--eval-data", str(config["eval_data"])]
    for group, (prefix, options) in GROUPS.items():
        chosen = {**(config.get(group) or {}), **((changes or {}).get(group) or {})}
        for option in dataclasses.fields(options):
            if option.name in chosen and _plain(chosen[option.name]) != _plain(option.default):
                words += _flag(prefix, option.name, chosen[option.name])
    return shlex.join([*words, *(["--overwrite"] if changes else [])])


def sources(provenance: Mapping[str, Any]) -> list[str]:
    """What was given as ``--data``, as it was typed; the bare name of the clip in datasets that record no more."""
    given = provenance.get("source_path") or provenance.get("source") or "CLIP"
    return [str(path) for path in given] if isinstance(given, (list, tuple)) else [str(given)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _flag(prefix: str, name: str, value: Any) -> list[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{prefix}{'' if value else 'no-'}{dashed}"]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"--{prefix}{dashed}", *(f"{v:.12g}" if isinstance(v, float) else str(v) for v in values)]
