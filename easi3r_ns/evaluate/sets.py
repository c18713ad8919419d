"""Evaluation on a published set: its sequences become captures, and the scores stand beside the published ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..core.errors import InputError
from ..core.runlog import RunLog
from ..pipelines.run import RunConfig
from ..storage.files import write_text
from .datasets import Capture, find_captures
from .layouts import LAYOUTS, clips_of_set, write_capture
from .peers import score_peers
from .published import beside, comma_separated, latex
from .runs import TABLES, evaluate_captures, read_results, with_chosen_weights, write_tables
from .tables import Result, Section, markdown
from .trajectory import load_evo

CLIPS = ".clips"
"""Folder, in that of a set's results, for its sequences as captures."""
LONG, LONG_GRAPH = 95, "swinstride-4-noncyclic"
"""Clips of DAVIS with more frames are paired over windows of 4, as in the paper (see its protocol)."""

Reconstruct = Callable[..., list[Result]]


def captures_of_set(
    name: str, root: Path, folder: Path, sequences: Sequence[str] = (), *, smoke: bool = False
) -> list[Capture]:
    """The sequences of a set as captures in ``folder``, with the frames of its protocol.

    Raises:
        InputError: no such set, or something is missing; see :func:`~.layouts.clips_of_set`.
    """
    if name not in LAYOUTS:
        raise InputError(f"{name} is no set that is known: there are {', '.join(LAYOUTS)}")
    clips = clips_of_set(LAYOUTS[name], root, sequences, smoke=smoke)
    captures = []
    for clip in clips:
        (capture,) = find_captures([write_capture(clip, folder / clip.name)])
        long = name.startswith("davis") and len(clip.frames) > LONG
        captures.append(replace(capture, graph=LONG_GRAPH if long else "", remark=clip.remark))
    return captures


def remarks(captures: Sequence[Capture]) -> list[str]:
    """What is to be said of the truth of a set; once for all sequences of which it holds."""
    named: dict[str, list[str]] = {}
    for capture in captures:
        if capture.remark:
            named.setdefault(capture.remark, []).append(capture.name)
    return [f"{', '.join(names)}: {remark}" for remark, names in named.items()]


def evaluate_set(
    name: str,
    root: Path,
    output_dir: Path,
    config: RunConfig,
    row_name: Callable[[str], str],
    *,
    sequences: Sequence[str] = (),
    smoke: bool = False,
    again: bool = False,
    log: RunLog,
    peers: Path | None = None,
    reconstruct: Reconstruct | None = evaluate_captures,
) -> tuple[list[Section], int]:
    """Reconstruct and score a set; the tables, the one with the published numbers first, and how many were scored.

    Args:
        row_name: the name of the row from the weights that are used.
        peers: folder with results of other methods; see :mod:`.peers`.
        reconstruct: makes the results; see :func:`~.runs.evaluate_captures`. None: those of other methods alone.

    Raises:
        Easi3RError: nothing was begun.
    """
    folder = output_dir / name
    captures = captures_of_set(name, root, folder / CLIPS, sequences, smoke=smoke)
    if any(capture.T_world_cam for capture in captures):
        load_evo()  # before hours of work, not after
    log.info(f"{LAYOUTS[name].title}: {len(captures)} sequences, {LAYOUTS[name].protocol}")
    for remark in remarks(captures):
        log.warn(remark)
    results = [] if peers is None else score_peers(peers, captures, folder, log, set_name=name)
    if reconstruct is not None:
        config = with_chosen_weights(captures, config, log)
        results += reconstruct(captures, folder, row_name(config.easi3r.weights), config, again=again, log=log)
    details = write_tables(folder)
    tables = [*beside(name, read_results(folder)), *details]
    write_text(folder / TABLES, (folder / TABLES).read_text(encoding="utf-8").split("## ")[0] + markdown(tables))
    write_text((folder / TABLES).with_suffix(".tex"), latex(tables))
    write_text((folder / TABLES).with_suffix(".csv"), comma_separated(tables))
    return tables, sum(result.scores is not None for result in results)
