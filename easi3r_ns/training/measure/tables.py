"""The measurements as Markdown."""

from __future__ import annotations

from typing import Any

from ...core.score import FLOW_RESIDUAL, MAPS, ScoreFormula
from .choose import LEAST_GAP, SHORTLIST, TOLERANCE
from .motion import CARD_ROW, FLOW_ROW
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
    return lines + _attention_lines(measured["rows"])


def _attention_lines(rows: dict[str, Any]) -> list[str]:
    """What attention tells and what it does not, in words, from the rows of the table."""
    card = next((title for title in rows if title.startswith(f"{CARD_ROW}: ")), None)
    alone = {
        title: row for title, row in rows.items() if title.startswith((*MAPS, *(f"(1 - {name})" for name in MAPS)))
    }
    if card is None or FLOW_ROW not in rows or not alone:
        return []
    moving = {title: row for title, row in alone.items() if row["gap"]["value"] >= LEAST_GAP}
    among = f"Of the attention maps with a gap of at least {LEAST_GAP}" if moving else "Of the attention maps"
    best = max(moving or alone, key=lambda title: alone[title]["jm"]["value"])
    jm = {title: rows[title]["jm"]["value"] for title in (best, FLOW_ROW, card)}
    gap, (low, _) = alone[best]["gap"]["value"], alone[best]["gap"]["interval"]
    shows = "so it shows motion, not only objects" if low > 0 else "so it does not tell motion from objects"
    with_attention = FLOW_RESIDUAL in card and any(name in card for name in MAPS)
    both = f" Attention and flow together (this card) have {jm[card]:.3f}." if with_attention else ""
    return [
        "",
        f"**What attention shows here, and what it does not.** {among} `{best}` has the best masks, with a JM of "
        f"{jm[best]:.3f}; its gap to the frozen twin is {gap:.3f}, {shows}. Optical flow that no motion of the camera "
        f"explains has a JM of {jm[FLOW_ROW]:.3f} without any attention.{both}",
    ]


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


_REJECTS = (
    "; where that gains no more than noise over a formula with fewer factors (some of its own, or flow alone), this"
)


def choice_lines(measured: dict[str, Any]) -> list[str]:
    """How formula and graph were chosen."""
    rejects = any("gains" in row for row in measured["graphs"].values())
    lines = [
        f"### How the score and the graph were chosen: {measured['clips']} other clips",
        "",
        f"On clips of {' or '.join(map(str, measured['lengths']))} frames whose seeds and textures appear in no other "
        f"table. Per graph, of the {SHORTLIST} formulas with the highest AUC among those with a gap of at least "
        f"{LEAST_GAP} to the frozen twin, the one whose masks have the highest JM{_REJECTS if rejects else ''}; "
        f"then the number of clusters by JM; then, among graphs whose JM is within {TOLERANCE} of the best, the one "
        f"with the smallest ATE (over {measured['path_clips']} of the clips). Chosen: `{measured['graph']}`.",
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
    return lines + _gain_lines(measured["graphs"])


def _gain_lines(graphs: dict[str, Any]) -> list[str]:
    """What the product with the best masks gains over simpler formulas, graph by graph."""
    rows = [
        f"| `{graph}` | {ScoreFormula(**gain['formula'])} | {ScoreFormula(**gain['simpler'])} | "
        f"{number(gain['jm'])} | {'yes' if gain['exceeds_noise'] else 'no'} |"
        for graph, row in graphs.items()
        for gain in row.get("gains", ())
    ]
    if not rows:
        return []
    return [
        "",
        "What the best product gains in JM over formulas with fewer factors: mean over the clips, 95 % interval. It "
        "exceeds noise where the whole interval lies above 0. Of the formulas over which it does not, the one with "
        "the fewest factors is taken.",
        "",
        "| graph | product | simpler formula | gain in JM | exceeds noise |",
        "|---|---|---|---|---|",
        *rows,
    ]


def all_lines(measured: dict[str, Any]) -> list[str]:
    """Every table that has been measured."""
    parts = [pair_lines(measured[name]) for name in ("wide", "clip") if name in measured]
    makers = (("score", score_lines), ("paths", path_lines), ("choice", choice_lines))
    parts += [make(measured[name]) for name, make in makers if name in measured]
    return [line for part in parts for line in [*part, ""]][:-1]
