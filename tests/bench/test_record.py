"""A slowdown is flagged when it is one of the code, not of the machine and not within noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from easi3r_ns.training.scenes import render_clip
from tests.bench import __main__ as bench
from tests.bench.__main__ import Taken
from tests.bench.accuracy import FRAMES, SEEDS, SIZE, accuracy_of, capture_of, compare_accuracy, write_capture
from tests.bench.record import accuracies, compare, kernel_seconds, make_record, read_record

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
        command = ["--runs", "none", "--repeats", "2", "--no-seeds", "--record", str(tmp_path / f"{name}.json")]
        bench.main(command)
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


GOOD = {"ate": 1.0, "jm": 0.7, "abs_rel": 0.05}


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        ({"ate": 1.2}, []),
        ({"ate": 1.3}, ["ATE, % of the path"]),
        ({"ate": 0.1, "jm": 0.9}, []),
        ({"jm": 0.68}, ["JM"]),
        ({"jm": 0.69}, []),
        ({"abs_rel": 0.06}, ["depth AbsRel"]),
        ({"ate": float("inf"), "jm": 0.0, "abs_rel": float("inf")}, ["ATE, % of the path", "JM", "depth AbsRel"]),
    ],
)
def test_what_is_worse_beyond_noise_is_flagged(change: dict[str, float], worse: list[str]) -> None:
    lines, count = compare_accuracy({"tiny": [GOOD], "old": [GOOD]}, {"tiny": [GOOD | change]})
    assert [line.split("|")[2].strip() for line in lines if "worse" in line] == worse and count == len(worse)


def test_how_far_equal_runs_lie_apart_is_noise_of_their_accuracy() -> None:
    lines, count = compare_accuracy({"tiny": [GOOD, GOOD | {"jm": 0.5}]}, {"tiny": [GOOD | {"jm": 0.45}]})
    assert count == 0 and any("| JM | 0.6000 | 0.4500 | 0.2000 |  |" in line for line in lines)
    assert compare_accuracy({"tiny": [{}]}, {"tiny": [GOOD]})[1] == 0, "records of before have none"


def test_a_loss_of_accuracy_alone_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, jm in (("a", 0.7), ("b", 0.6)):
        record = make_record(0.1, {"tiny": [replace(RUN, accuracy=GOOD | {"jm": jm})]})
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert accuracies(record) == {"tiny": [GOOD | {"jm": 0.6}]}
    with pytest.raises(SystemExit) as end:
        bench.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    said = capsys.readouterr().out
    assert (
        end.value.code == 1 and "| tiny | JM | 0.7000 | 0.6000 |" in said and f"code {record['state']['code']}" in said
    )
    bench.main(["--compare", str(tmp_path / "b.json"), str(tmp_path / "a.json")])


def test_the_truth_of_a_rendered_clip_scores_perfectly(tmp_path: Path) -> None:
    from easi3r_ns.dataset.scene_folder import write_scene
    from tests.support.clip_scene import perfect_scene

    images = write_capture(tmp_path / "clip", SEEDS[0])
    capture = capture_of(images)
    assert capture is not None and len(capture.T_world_cam) == len(capture.masks) == len(capture.depth) == FRAMES
    clip = render_clip(SEEDS[0], FRAMES, *SIZE, 2)
    scene = perfect_scene(clip, tmp_path / "pictures")
    write_scene(replace(scene, names=tuple(sorted(path.name for path in images.iterdir()))), tmp_path / "out" / "scene")
    found = accuracy_of(tmp_path / "out", capture)
    assert found["ate"] < 1e-3 and found["jm"] == 1 and found["abs_rel"] < 1e-3
    example = capture_of(Path(bench.ROOT) / "examples" / "clip" / "clip.mp4")
    assert example is not None and example.T_world_cam and example.masks and example.depth
