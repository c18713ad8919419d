"""The card of a checkpoint: ``card.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError
from ..core.score import FLOW_RESIDUAL, ScoreFormula
from ..storage.files import write_bytes, write_json
from .measure.tables import all_lines

CARD, README = "card.json", "README.md"


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write both forms into ``folder``."""
    write_json(folder / CARD, card)
    write_bytes(folder / README, describe(card).encode())


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder of weights; raises CheckpointError where there is none."""
    try:
        return json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CARD}: no card that can be read ({error}); export the weights again"
        ) from error


def describe(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    training = card["training"]
    commands = [f"    {command}" for command in training_commands(training)]
    formula = ScoreFormula(**card["dynamic_score"])
    beside_attention = (
        f"* `{FLOW_RESIDUAL}` is not attention: it is optical flow that no motion of the camera explains. "
        + (
            "What each tells alone stands in the table of scores."
            if formula.has_attention
            else "The score has no attention in it, because no attention map improved the masks by more than noise; "
            "what these maps tell alone stands in the table of scores."
        )
    )
    lines = [
        f"# {card['name']}",
        "",
        card["description"],
        "",
        f"* Licence: {card['licence']}; {card['parameters'] / 1e6:.1f} million parameters in half precision",
        f"* Trained on {training['data']}; {training['steps']} steps, {training['ordered_pairs']} ordered pairs, "
        f"{training['minutes']} minutes",
        *(f"* {remark}" for remark in training.get("remarks", [])),
        f"* Dynamic score: `{formula}` with k-means; pair graph: `{card['graph']}`"
        + ("" if card.get("flow_weight") is None else f"; weight of the flow term: {card['flow_weight']:g}"),
        *([beside_attention] if formula.flow_residual else []),
        "",
        *([*commands, ""] if commands else []),
        "## Limits",
        "",
        *(f"* {limit}" for limit in card["limits"]),
    ]
    if card.get("measured"):
        lines += ["", "## Measured on scenes and textures that were not trained on", "", *all_lines(card["measured"])]
    return "\n".join(lines) + "\n"


def training_commands(training: dict[str, Any]) -> list[str]:
    """The commands that made the weights; the later ones start from (BEFORE) what the one before them left in RUN."""
    before = training_commands(training["before"]) if "before" in training else []
    return before + ([training["command"]] if "command" in training else [])
