"""The tables: failed clips have their lines and are counted, means follow the protocol."""

from __future__ import annotations

import pytest

from easi3r_ns.evaluate.depth import DepthErrors, DepthScore
from easi3r_ns.evaluate.scoring import MaskErrors, SequenceScores
from easi3r_ns.evaluate.tables import Result, markdown, sections
from easi3r_ns.evaluate.trajectory import Drift, TrajectoryErrors


def masks(values: tuple[float, ...]) -> SequenceScores:
    return SequenceScores(len(values), len(values), masks=MaskErrors(values, values, 0.1, 0.2))


RESULTS = [
    Result("tiny", "swan", ("masks",), 4, 10.0, scores=masks((0.9, 0.8, 0.7, 0.2))),
    Result("tiny", "car", ("masks",), 1, 5.0, scores=masks((0.1,))),
    Result("tiny", "dog", ("masks",), None, 1.0, error="no | luck"),
    Result("none", "swan", ("masks",), 4, 9.0, scores=masks((1.0, 1.0, 0.0, 0.0))),
    Result(
        "none",
        "walk",
        ("cameras", "depth"),
        5,
        7.0,
        scores=SequenceScores(
            5,
            4,
            trajectory=TrajectoryErrors(0.05, 0.01, 0.5, 2.0, 1.0, 5),
            focal_error=-0.1,
            depth=DepthErrors(DepthScore(0.1, 0.9, 1, 0), DepthScore(0.08, 0.95, 1, 0), 0.8, 100),
        ),
    ),
    Result("none", "tripod", ("fixed",), 5, 7.0, scores=SequenceScores(5, 5, drift=Drift(0.1, 0.025, 1.5, 5))),
    Result("none", "line", ("cameras",), 5, 7.0, scores=SequenceScores(5, 5, problems=("cameras: straight",))),
]


def lines(title: str) -> list[tuple[str, ...]]:
    return next(list(s.lines) for s in sections(RESULTS) if s.title == title)


def test_masks_are_pooled_over_frames_at_network_resolution_and_over_sequences_at_source() -> None:
    table = lines("Motion masks")
    assert ("swan", "tiny", "0.650", "0.750", "0.650", "0.750", "20.0", "10.0") in table
    summary = next(line for line in table if line[0].startswith("all") and line[1] == "tiny")
    # (0.9 + 0.8 + 0.7 + 0.2 + 0.1) / 5 against (0.65 + 0.1) / 2
    assert summary[:6] == ("all: 2 scored, 1 not", "tiny", "0.540", "0.600", "0.375", "0.375")
    assert sum(line[0].startswith("all") for line in table) == 1  # one sequence needs no summary


def test_a_failed_clip_keeps_its_line() -> None:
    assert ("dog", "tiny", "failed", "-", "-", "-", "-", "-") in lines("Motion masks")
    runs = lines("Runs")
    assert ("dog", "tiny", "-", "1", "no | luck") in runs and (
        "line",
        "none",
        "5 of 5",
        "7",
        "cameras: straight",
    ) in runs
    assert ("walk", "none", "4 of 5", "7", "ok") in runs
    assert "7 runs, 1 failed" in next(s.note for s in sections(RESULTS) if s.title == "Runs")


def test_cameras_depth_and_drift() -> None:
    cameras = lines("Cameras")
    assert cameras[0] == ("walk", "none", "5", "0.0500", "2.50", "0.0100", "0.500", "-10.0")
    assert cameras[1][:4] == ("line", "none", "-", "-")
    assert cameras[2][:4] == ("all: 1 scored, 1 not", "none", "5", "0.0500")
    assert cameras[2][-1] == "+10.0"  # sizes are joined, so that errors of either sign do not cancel
    assert lines("Depth") == [("walk", "none", "0.100", "0.900", "0.080", "0.950", "0.80", "-", "-", "-")]
    assert lines("Fixed camera") == [("tripod", "none", "2.50", "1.50")]


def test_markdown_has_a_row_for_every_line_and_survives_bars() -> None:
    text = markdown(sections(RESULTS))
    assert "| dog | tiny | - | 1 | no \\| luck |" in text
    assert text.count("\n## ") + text.startswith("## ") == 5
    assert sections([]) == [] and markdown([]) == "\n"


@pytest.mark.parametrize("kind", ["cameras", "depth", "masks", "fixed"])
def test_no_table_for_what_no_clip_has(kind: str) -> None:
    only = [r for r in RESULTS if kind in r.truth]
    assert len(sections(only)) == (3 if kind in ("cameras", "depth") else 2)
