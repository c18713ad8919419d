"""The tables of arXiv:2503.24391 from one command: every published number, ours beside it, and what made ours.

A *configuration* is a row of options; it is run on the sets for which its numbers were published. What is finished is
kept, so the same command goes on after an interruption. ``OUTPUT/SET/ROW/SEQUENCE/`` are the runs, as for a single set;
``OUTPUT/paper.md``, ``.tex``, ``.csv`` and ``.json`` hold all cells and are written anew after every configuration.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.code_state import code_state
from ..core.errors import Easi3RError, InputError, shortened
from ..core.runlog import RunLog
from ..network.sources import resolve
from ..pipelines.geometric import NAME as NO_NETWORK
from ..pipelines.refined import check_tracker
from ..pipelines.run import RunConfig
from ..storage.files import make_folder, write_json, write_text
from .cells import Cell, cells
from .configurations import NO_MODEL, SETS, Paper, Wish, configurations
from .datasets import Capture
from .layouts import LAYOUTS
from .peers import score_peers
from .published import KINDS, SOURCE, Kind, comma_separated, latex
from .runs import evaluate_captures, options_text, read_rows, state_of_row, write_tables
from .sets import CLIPS, Reconstruct, captures_of_set, remarks
from .tables import NOTHING, Section, markdown
from .trajectory import load_evo

PAGE = "paper"


def evaluate_paper(
    root: Path,
    output_dir: Path,
    wish: Wish,
    base: RunConfig,
    *,
    smoke: bool = False,
    again: bool = False,
    log: RunLog,
    peers: Path | None = None,
    reconstruct: Reconstruct = evaluate_captures,
) -> tuple[list[Section], int]:
    """Run what can be run, and write the page; its tables, and the number of our numbers in it.

    A set or weights that cannot be had are reasons in the cells, no errors.

    Args:
        root: the folder of the sets: each is it, or a folder in it.
        base: options that hold for every run, such as the device.
        peers: folder with results of other methods; see :mod:`.peers`.
        reconstruct: makes the results; see :func:`~.runs.evaluate_captures`.

    Raises:
        InputError: ``root`` is no folder; MissingExtraError: cameras are to be scored and evo is missing.
    """
    if not root.is_dir():
        raise InputError(f"--root {root} is no folder: give the one that holds the sets")
    paper = Paper(output_dir, wish, smoke)
    make_folder(output_dir)
    for name in wish.sets:
        captures = _captures(name, root, paper, log)
        if any(capture.T_world_cam for capture in captures):
            load_evo()  # before hours of work, not after
        if peers is not None and captures:
            score_peers(peers, captures, output_dir / name, log, set_name=name)
        for configuration in configurations(wish, name) if captures else ():
            config = configuration.of(base)
            reason = _reason_against(config, paper, log)
            if reason is None:
                log.info(f"{name}, {configuration.row}: {options_text(config)}")
                try:
                    reconstruct(captures, output_dir / name, configuration.row, config, again=again, log=log)
                except Easi3RError as error:
                    reason = str(error)
            if reason is not None:
                log.warn(f"{name}, {configuration.row} is not run: {shortened(reason, 200)}")
                paper.missing[f"{name}/{configuration.row}"] = shortened(reason, 200)
            write_page(paper)
        if captures:
            write_tables(output_dir / name)
    return write_page(paper)


def _captures(name: str, root: Path, paper: Paper, log: RunLog) -> list[Capture]:
    """The sequences of a set; none, with the reason in ``paper``, where the set is not there or not complete."""
    try:
        folder = folder_of_set(name, root)
        captures = captures_of_set(name, folder, paper.output_dir / name / CLIPS, smoke=paper.smoke)
    except InputError as error:
        log.warn(f"{name} is not run: {shortened(str(error), 300)}")
        paper.missing[name] = shortened(str(error), 200)
        return []
    lengths = sorted(len(list(capture.data.iterdir())) for capture in captures)
    paper.protocols[name] = (
        f"{LAYOUTS[name].title}: {LAYOUTS[name].protocol}; {len(captures)} sequences of {lengths[0]} to {lengths[-1]} "
        f"frames, all of them used (not the 50 of a run's default)"
    )
    log.info(paper.protocols[name])
    for remark in remarks(captures):
        log.warn(remark)
        paper.protocols[name] += f". {remark}"
    return captures


def folder_of_set(name: str, root: Path) -> Path:
    """The folder of a set: ``root``, or one directly in it. Raises InputError where none is."""
    layout = LAYOUTS[name]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    # A folder of its name goes first: what a layout looks for may be in others too, such as .npz files.
    folders.sort(key=lambda path: path.name.lower() not in (name, layout.title.lower()))
    for place in (*folders, root):
        if layout.folder(place) is not None:
            return place
    raise InputError(f"{root} does not hold {layout.title}: {layout.wanted} is missing. It comes from {layout.source}")


def _reason_against(config: RunConfig, paper: Paper, log: RunLog) -> str | None:
    """Why a configuration cannot run here: its weights, or its model for masks, cannot be had. Tries each once."""
    weights, model = config.easi3r.weights, config.easi3r.refine_masks

    def tried(name: str, attempt: Callable[[], object]) -> str | None:
        if name not in paper.tried:
            try:
                attempt()
                paper.tried[name] = None
            except Easi3RError as error:
                paper.tried[name] = str(error)
        return paper.tried[name]

    reason = None if weights == NO_NETWORK else tried(f"--weights {weights}", lambda: resolve(weights, log=log))
    if reason is None and model != NO_MODEL:
        reason = tried(f"--refine-masks {model}", lambda: check_tracker(config.easi3r, log))
    return reason


def write_page(paper: Paper) -> tuple[list[Section], int]:
    """Write the page from what is on the disk; its tables, and the number of our numbers."""
    found = cells(paper)
    tables = [_table(name, kind, found, paper) for name in SETS for kind in KINDS if name in kind.numbers]
    rows = {name: read_rows(paper.output_dir / name) for name in SETS if (paper.output_dir / name).is_dir()}
    place = paper.output_dir / PAGE
    write_text(place.with_suffix(".md"), "\n".join(_head(paper, rows)) + "\n\n" + markdown(tables))
    write_text(place.with_suffix(".tex"), latex(tables))
    write_text(place.with_suffix(".csv"), comma_separated(tables))
    write_json(place.with_suffix(".json"), _record(paper, rows, found))
    return tables, sum(cell.ours is not None for cell in found)


def _table(name: str, kind: Kind, found: Sequence[Cell], paper: Paper) -> Section:
    lines = []
    for cell in found:
        if (cell.name, cell.kind) != (name, kind):
            continue
        difference = NOTHING if cell.difference is None or paper.smoke else format(cell.difference, f"+{kind.form}")
        published, ours = (NOTHING if v is None else format(v, kind.form) for v in (cell.published, cell.ours))
        lines.append((cell.method, kind.measures[cell.measure], published, ours, difference, cell.row, cell.state))
    header = ("method", "measure", "published", "ours", "difference", "configuration", "state")
    return Section(f"{name}: {kind.title}", f"{kind.note} Published: {SOURCE}.", header, tuple(lines))


def _head(paper: Paper, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = [
        f"# {SOURCE}, Tables 1 to 5: published and ours",
        "",
        f"Written by version {__version__}, code {code_state()}. Every run keeps its code and time in "
        "`run.json` and its output in `log.txt` beside its dataset; `paper.json` has every cell and row for programs.",
    ]
    states = {state for found in rows.values() for row in found for state in row.get("code", ())}
    if len(states) > 1:
        lines += ["", f"**The runs were made by {len(states)} states of the code** ({', '.join(sorted(states))})."]
    if paper.smoke:
        lines += [
            "",
            "**`--smoke`: three sequences of each set. Nothing here can be compared with a published number.**",
        ]
    lines += ["", "Protocols:", ""]
    lines += [f"* `{name}`: {text}" for name, text in paper.protocols.items()] or ["* no set was found"]
    lines += ["", "Configurations:", ""]
    told = [
        f"* `{n}`, `{row['row']}`: `{row['options']}` ({state_of_row(row)})" for n, own in rows.items() for row in own
    ]
    lines += told or ["* none was run"]
    if paper.missing:
        lines += ["", "Not run:", "", *(f"* `{name}`: {reason}" for name, reason in paper.missing.items())]
    return lines


def _record(paper: Paper, rows: Mapping[str, Sequence[Mapping[str, Any]]], found: Sequence[Cell]) -> dict[str, Any]:
    return {
        "source": SOURCE,
        "version": __version__,
        "code": code_state(),
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "wish": {name: list(getattr(paper.wish, name)) for name in ("weights", "motion", "refine_masks", "sets")},
        "smoke": paper.smoke,
        "protocols": paper.protocols,
        "missing": paper.missing,
        "rows": {
            name: [{key: value for key, value in row.items() if key != "results"} for row in own]
            for name, own in rows.items()
        },
        "cells": [
            {
                "set": cell.name,
                "kind": cell.kind.score,
                "method": cell.method,
                "measure": cell.kind.measures[cell.measure],
                "published": cell.published,
                "ours": cell.ours,
                "difference": None if paper.smoke else cell.difference,
                "configuration": cell.row,
                "state": cell.state,
            }
            for cell in found
        ],
    }
