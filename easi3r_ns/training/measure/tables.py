"""The measurements as Markdown."""

from __future__ import annotations

from typing import Any

from ...core.score import ScoreFormula
from .choose import LEAST_GAP, SHORTLIST, TOLERANCE
from .pairs import ROWS
from .paths import OWN_MASKS, TITLES

SECTIONS = ("wide", "clip", "score", "paths", "choice")
_PATH_COLUMNS = ("ate", "rpe_translation", "rpe_rotation", "focal", "depth")


def number(cell: dict[str, Any] | None, percent: bool = False, interval: bool = True) -> str:
    """'4.5 [4.1, 5.0]', or a dash where there is no number."""
    if cell is None or cell["value"] is None:
        return "-"

    def text(x: float) -> str:
        return f"{100 * x:.1f} %" if percent else f"{x:.2f}" if abs(x) >= 1 else f"{x:.3f}"

    low, high = cell.get("interval", (None, None)) if interval else (None, None)
    span = "" if low is None else f" [{text(low).removesuffix(' %')}, {text(high).removesuffix(' %')}]"
    return text(cell["value"]) + span


def pair_lines(measured: dict[str, Any]) -> list[str]:
    """One set of static pairs; ``measured`` as :func:`.pairs.summarise` returns it."""
    lines = [
        f"### {measured['title']}",
        "",
        f"{measured['pairs']} pairs of {measured['scenes']} scenes, 128 x 96 pixels, median baseline "
        f"{100 * measured['baseline']:.1f} % of the median depth; medians over pairs, 95 % intervals over scenes.",
        "",
        "| error | network | without looking | |",
        "|---|---|---|---|",
    ]
    for name, label, rival in ROWS:
        cell = measured["rows"][name]
        trivial = number({"value": cell["trivial"]})
        note = f" ({measured['long_baselines']} pairs)" if name.endswith("long") else ""
        lines.append(f"| {label}{note} | {number(cell)} | {trivial} | {rival} |")
    return lines


def score_lines(measured: dict[str, Any]) -> list[str]:
    """The dynamic score and its rivals."""
    lines = [
        f"### What moves: {measured['clips']} dynamic clips of {measured['frames']} frames and their frozen twins",
        "",
        "The twin is the same clip with its objects at rest: only the gap between the two AUCs is motion, the rest is "
        "seeing objects. AUC and AP (average precision) per token, all scores clustered with k-means; JM is the mean "
        "Jaccard index of the masks at network resolution, JR the share of frames above 0.5. "
        f"{100 * measured['prevalence']:.0f} % of the tokens move. 95 % intervals over clips.",
        "",
        "| score | AUC | AUC of the twin | gap | AP | AP of the twin | JM | JR |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, row in measured["rows"].items():
        cells = [number(row.get(n), interval=n in ("auc", "gap")) for n in ("auc", "auc_twin", "gap", "ap", "ap_twin")]
        lines.append(f"| {title} | {' | '.join(cells)} | {number(row['jm'])} | {row['jr']:.2f} |")
    return lines


def path_lines(measured: dict[str, Any]) -> list[str]:
    """Clips from end to end."""
    lines = [
        f"### End to end: {measured['clips']} dynamic clips of {measured['frames']} frames",
        "",
        "The whole pipeline at network size, means over clips with 95 % intervals. ATE: camera centres after Sim(3), "
        "RMSE over the length of the path. RPE: motion from frame to frame after the same alignment, RMSE. Depth: "
        "AbsRel on what is static after one scale per clip. JM and JR of the final masks.",
        "",
        f"Pair graph of the card: `{measured['graph']}`. The alignment ran on {measured['pixels']} pixels a frame.",
        "",
        "| | ATE / path | RPE / step | RPE (deg) | focal | depth AbsRel | JM | JR | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, row in measured["variants"].items():
        percent = ("ate", "rpe_translation", "focal")
        cells = [number(row.get(n), n in percent, n in ("ate", "rpe_rotation", "focal")) for n in _PATH_COLUMNS]
        own = variant in OWN_MASKS and "jm" in row
        masks = [number(row["jm"]), f"{row['jr']:.2f}"] if own else ["-", "-"]
        title = TITLES.get(variant, "a camera that stands still")
        lines.append(f"| {title} | {' | '.join([*cells, *masks])} | {row.get('failed', '-')} |")
    return lines


def choice_lines(measured: dict[str, Any]) -> list[str]:
    """How formula and graph were chosen."""
    lines = [
        f"### How the score and the graph were chosen: {measured['clips']} other clips",
        "",
        f"On clips of {' or '.join(map(str, measured['lengths']))} frames whose seeds and textures appear in no other "
        f"table. Per graph, of the {SHORTLIST} formulas with the highest AUC among those with a gap of at least "
        f"{LEAST_GAP} to the frozen twin, the one whose masks have the highest JM, then the number of clusters by JM; "
        f"then, among graphs whose JM is within {TOLERANCE} of the best, the one with the smallest ATE (over "
        f"{measured['path_clips']} of the clips). Chosen: `{measured['graph']}`.",
        "",
        "Weight of the flow term, by the same ATE: "
        + ", ".join(f"{weight}: {100 * ate:.1f} %" for weight, ate in measured["flow_weights"].items())
        + f". Chosen: {measured['flow_weight']:g}.",
        "",
        "| graph | best formula | AUC | AUC of the twin | JM | ATE / path |",
        "|---|---|---|---|---|---|",
    ]
    for graph, row in measured["graphs"].items():
        ate = "-" if row["ate"] is None else f"{100 * row['ate']:.1f} %"
        reached = " | ".join(f"{row[name]:.3f}" for name in ("auc", "auc_twin", "jm"))
        lines.append(f"| `{graph}` | {ScoreFormula(**row['formula'])} | {reached} | {ate} |")
    return lines


def all_lines(measured: dict[str, Any]) -> list[str]:
    """Every table that has been measured."""
    parts = [pair_lines(measured[name]) for name in ("wide", "clip") if name in measured]
    makers = (("score", score_lines), ("paths", path_lines), ("choice", choice_lines))
    parts += [make(measured[name]) for name, make in makers if name in measured]
    return [line for part in parts for line in [*part, ""]][:-1]
