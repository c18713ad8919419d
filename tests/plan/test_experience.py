"""What is kept of a machine: measured once, learned from runs, never in the way."""

from __future__ import annotations

import json
import stat

import pytest

from easi3r_ns.core.runlog import StageRecord
from easi3r_ns.plan import experience as module
from easi3r_ns.plan.experience import (
    COVERS,
    LIMITS,
    MOST_RUNS,
    Experience,
    keep_experience,
    load_experience,
    machine_key,
    remembered_rates,
)
from easi3r_ns.plan.stages import StageForecast, rounded, time_range

STAGES = (StageForecast("bundle adjustment", 10.0, 1e9), StageForecast("dataset", 4.0, 1e9))


@pytest.fixture(autouse=True)
def file(monkeypatch, tmp_path):
    monkeypatch.setenv("EASI3R_NS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "speed.json"


def key(name: str) -> str:
    return f"{name} here"


def records(*named: tuple[str, float]) -> list[StageRecord]:
    return [StageRecord(name, seconds, seconds, 0) for name, seconds in named]


def test_the_speed_is_measured_once_and_kept(file, monkeypatch) -> None:
    first = load_experience()
    assert first.factor > 0
    monkeypatch.setattr(module, "_classical_work", lambda: 1 / 0)
    assert load_experience().factor == first.factor
    monkeypatch.setattr(module.torch, "__version__", "99")
    with pytest.raises(ZeroDivisionError):
        load_experience()  # another release is measured anew


def test_a_finished_run_corrects_the_next_forecast() -> None:
    known = Experience(1.0)
    before = known.corrected(STAGES, key)
    assert [(s.seconds, s.low_seconds, s.high_seconds, s.known) for s in before][0] == (10, 5, 20, False)
    run = records(("features", 12.0), ("matching", 8.0), ("mapping", 10.0), ("report", 1.0))
    known.learn(STAGES, key, run)
    after = {stage.name: stage for stage in known.corrected(STAGES, key)}
    assert after["bundle adjustment"].seconds == pytest.approx(30) and after["bundle adjustment"].known
    assert after["bundle adjustment"].low_seconds < 30 < after["bundle adjustment"].high_seconds
    assert after["dataset"].seconds == 4.0 and not after["dataset"].known, "its first part did not run: it was resumed"
    keep_experience(known)
    assert load_experience().ratios == known.ratios


def test_the_middle_of_the_latest_runs_counts_and_nonsense_does_not() -> None:
    known = Experience(1.0)
    for seconds in (1e-3, 1e9, *[30.0] * 20, 20.0):
        known.learn(STAGES[:1], key, records(("features", seconds)))
    assert len(known.ratios[key("bundle adjustment")]) == MOST_RUNS
    assert known.corrected(STAGES[:1], key)[0].seconds == pytest.approx(30)
    assert all(LIMITS[0] <= ratio <= LIMITS[1] for ratio in known.ratios[key("bundle adjustment")])


@pytest.mark.parametrize(
    "content",
    ["", "[", "[]", "null", '{"version": 0}', '{"version": 1, "machines": 3}', "[" * 100_000, b"\xff\xfe",
     '{"version": 1, "machines": {"KEY": {"factor": NaN, "ratios": {"a": [1, "b"], "c": 3, "d": []}, "rates": 7}}}',
     '{"version": 1, "machines": {"KEY": {"factor": -1, "ratios": {"a": [0], "b": [Infinity]}}}}'],
)  # fmt: skip
def test_a_damaged_file_is_as_good_as_none(file, content) -> None:
    file.parent.mkdir()
    name = json.dumps(machine_key())[1:-1]
    file.write_bytes(content if isinstance(content, bytes) else content.replace("KEY", name).encode())
    known = load_experience()
    assert known.factor > 0 and known.ratios == {} and known.rates == {}
    assert json.loads(file.read_text())["version"] == 1


def test_a_disk_that_refuses_is_no_obstacle(file, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("EASI3R_NS_CACHE", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("in the way")
    assert load_experience().factor > 0
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("EASI3R_NS_CACHE", str(folder))
    assert load_experience().factor > 0


def test_machines_that_share_a_home_do_not_mix(file, monkeypatch) -> None:
    for node in ("a", "b", *(f"more {k}" for k in range(9))):
        monkeypatch.setattr(module.platform, "node", lambda node=node: node)
        known = load_experience()
        assert known.ratios == {}
        known.learn(STAGES[:1], key, records(("features", 20.0)))
        keep_experience(known)
    assert len(json.loads(file.read_text())["machines"]) == module.MOST_MACHINES


def test_rates_of_a_network_are_measured_once() -> None:
    assert remembered_rates(load_experience(), "net", lambda: (1, 2, 3)) == [1, 2, 3]
    assert remembered_rates(load_experience(), "net", lambda: 1 / 0) == [1, 2, 3]


def test_stages_of_a_forecast_stand_for_stages_of_runs() -> None:
    from easi3r_ns.core.runlog import STAGES as words

    assert {name for names in COVERS.values() for name in names} <= set(words)


def test_times_are_said_with_two_digits_and_a_range() -> None:
    known = (StageForecast("a", 100.0, 0, low_seconds=60.0, high_seconds=190.0),)
    assert time_range(known) == "1 min 40 s (1 min to 3 min 10 s)"
    assert time_range((StageForecast("a", 100.0, 0),)) == "1 min 40 s"
    many = time_range(tuple(StageForecast(str(k), 100.0, 0, low_seconds=50, high_seconds=200) for k in range(100)))
    assert many == "2 h 50 min (2 h to 4 h 20 min)", "a hundred stages are not all at one end of their ranges"
    assert [rounded(s) for s in (0.1, 7.4, 43.2, 101, 4000, 15438.7, 80000)] == [1, 7, 45, 100, 4020, 15600, 79200]


def test_frames_in_between_are_no_reading_of_frames() -> None:
    """Stages whose names begin alike are not one; a run that kept its frames says nothing about reading them."""
    stages, known = (StageForecast("frames", 10.0, 1e9),), Experience(1.0)
    known.learn(stages, key, records(("frames", 5.0), ("frames in between", 70.0)))
    assert known.ratios == {}
    known.learn(stages, key, records(("choosing frames", 10.0), ("frames", 5.0), ("frames in between", 70.0)))
    assert known.ratios == {key("frames"): [1.5]}


@pytest.mark.parametrize("name", ["mapping", "mapping with little parallax", "global mapping"])
def test_all_mappings_are_bundle_adjustment(name) -> None:
    known = Experience(1.0)
    known.learn(STAGES[:1], key, records(("features", 1.0), (name, 9.0)))
    assert known.ratios == {key("bundle adjustment"): [1.0]}
