"""A slowdown is flagged when it is one of the code, not of the machine and not within noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.__main__ import Taken
from tests.bench.record import compare, kernel_seconds, make_record, read_record

RUN = Taken(90.0, 100.0, 2**30, (("mapping", 40.0), ("stereo", 30.0), ("stereo", 10.0), ("check", 1.0)), 24)


def slowed(run: Taken, factor: float, **stages: float) -> Taken:
    """Every second times ``factor``, and of named stages times theirs."""
    parts = tuple((name, factor * stages.get(name, 1.0) * seconds) for name, seconds in run.stages)
    more = sum(seconds for _, seconds in parts) - factor * sum(seconds for _, seconds in run.stages)
    return replace(run, cpu=factor * run.cpu + more, stages=parts)


def flagged(before: dict, after: dict) -> list[tuple[str, str]]:
    lines, count = compare(before, after)
    found = [tuple(cell.strip() for cell in line.split("|")[2:8:5]) for line in lines if "slower" in line]
    assert len(found) == count
    return found


def test_a_slower_machine_is_no_slowdown() -> None:
    assert flagged(make_record(0.1, {"none": [RUN]}), make_record(0.3, {"none": [slowed(RUN, 3.0)]})) == []


def test_a_slower_stage_is_flagged_on_a_faster_machine() -> None:
    after = make_record(0.05, {"none": [slowed(RUN, 0.5, stereo=1.5)]})
    assert [stage for stage, _ in flagged(make_record(0.1, {"none": [RUN]}), after)] == ["all", "stereo"]


def test_what_equal_runs_differ_by_is_noise() -> None:
    before, after = make_record(0.1, {"none": [RUN]}), make_record(0.1, {"none": [slowed(RUN, 1.1)]})
    assert flagged(before, after) == []
    after = make_record(0.1, {"none": [slowed(RUN, 1.25)]})
    assert [stage for stage, _ in flagged(before, after)] == ["all"]
    wide = make_record(0.1, {"none": [RUN, slowed(RUN, 1.4)]})
    assert flagged(wide, after) == [], "the repeats lie farther apart"


def test_short_stages_and_runs_of_one_record_are_not_judged() -> None:
    lines, _ = compare(make_record(0.1, {"none": [RUN], "old": [RUN]}), make_record(0.1, {"none": [RUN], "new": [RUN]}))
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["all", "mapping", "stereo"]


def test_the_kernel_takes_time() -> None:
    assert 0.001 < kernel_seconds() < 10


def test_records_are_written_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "on_a_gpu", lambda: None)
    for name, factor in (("a", 1.0), ("b", 1.5)):
        monkeypatch.setattr(bench, "measure", lambda checkout, data, options, factor=factor: slowed(RUN, factor))
        monkeypatch.setattr(bench, "kernel_seconds", lambda: 0.1)
        bench.main(["--runs", "none", "--repeats", "2", "--record", str(tmp_path / f"{name}.json")])
    assert len(json.loads((tmp_path / "a.json").read_text())["runs"]["none"]) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        bench.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert end.value.code == 1 and "| none | all | 1000.0 | 1500.0 | 1.50 | 0.15 | slower |" in capsys.readouterr().out
    bench.main(["--compare", str(tmp_path / "b.json"), str(tmp_path / "a.json")])
    assert "| faster |" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", '{"format": 0, "kernel": 1}', '{"format": 1, "kernel": 0}'])
def test_another_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SystemExit, match="a.json is no record"):
        read_record(tmp_path / "a.json")
