"""The card of a checkpoint: ``card.json`` for programs, ``README.md`` for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_bytes, write_json

CARD, README = "card.json", "README.md"

_GEOMETRY = (
    ("rotation", "rotation error of a pair, median (deg)"),
    ("rotation_identity", "... of answering 'no rotation'"),
    ("rotation_below_5", "share of pairs below 5 deg"),
    ("rotation_below_10", "share of pairs below 10 deg"),
    ("translation", "translation direction error, median (deg)"),
    ("translation_wide_baseline", "... where the baseline exceeds 15 % of the mean distance"),
    ("points_1", "point error of view 1 / mean distance, median"),
    ("points_2", "point error of view 2 / mean distance, median"),
    ("depth_abs_rel", "depth AbsRel of view 1, median"),
    ("focal", "focal error, median"),
    ("focal_constant", "... of a constant 57.5 degree lens"),
)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write both forms into ``folder``."""
    write_json(folder / CARD, card)
    write_bytes(folder / README, describe(card).encode())


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder of weights."""
    return json.loads((folder / CARD).read_text())


def describe(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    training = card["training"]
    score = " * ".join(name if sign > 0 else f"(1 - {name})" for name, sign in card["dynamic_score"].items() if sign)
    lines = [
        f"# {card['name']}",
        "",
        card["description"],
        "",
        f"* Licence: {card['licence']}; {card['parameters'] / 1e6:.1f} million parameters in half precision",
        f"* Trained on {training['data']}; {training['steps']} steps, {training['ordered_pairs']} ordered pairs, "
        f"{training['minutes']} minutes",
        f"* Dynamic score: `{score}` with k-means; pair graph: `{card['graph']}`",
        "",
        "## Limits",
        "",
        *(f"* {limit}" for limit in card["limits"]),
    ]
    if "measured" in card:
        lines += ["", "## Measured on scenes and textures that were not trained on", "", *_tables(card["measured"])]
    return "\n".join(lines) + "\n"


def _tables(measured: dict[str, Any]) -> list[str]:
    geometry = measured["geometry"]
    lines = [f"{geometry['pairs']} static pairs, 128 x 96 pixels:", "", "| | |", "|---|---|"]
    lines += [f"| {label} | {geometry[name]} |" for name, label in _GEOMETRY]
    if "score" not in measured:
        return lines
    lines += [
        "",
        f"{measured['clips']} dynamic clips of {measured['frames']} frames; AUC per token against what moves, beside "
        "the same clip with its objects at rest (only a gap between the two means motion); Jaccard index of the masks:",
        "",
        "| score (each with k-means) | AUC | AUC, objects at rest | Jaccard |",
        "|---|---|---|---|",
    ]
    for title, row in measured["score"].items():
        lines.append(f"| {title} | {row.get('auc', '')} | {row.get('auc_frozen_twin', '')} | {row['jaccard']} |")
    return lines
