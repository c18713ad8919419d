"""The processor's shell: what it hands on, what it prints, how it fails; and the progress display."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from rich.console import Console

from easi3r_ns.cli import summary
from easi3r_ns.cli.display import RichRunLog
from easi3r_ns.cli.run import ProcessEasi3R
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.runlog import STAGES, RunLog, StageRecord, duration
from easi3r_ns.core.scene import FIXED, Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.pipelines import run
from easi3r_ns.report.card import ReportCard
from easi3r_ns.report.measures import measure
from easi3r_ns.report.next_step import next_steps
from easi3r_ns.report.verdict import judge


def parse(*arguments: str) -> ProcessEasi3R:
    return tyro.cli(ProcessEasi3R, args=["--data", "clip.mp4", "--output-dir", "out", *arguments])


@pytest.fixture
def result(tmp_path: Path) -> SimpleNamespace:
    """A finished run: 3 frames of 8x6 from a 32x24 source, a quarter of the second frame moves."""
    masks = np.zeros((3, 6, 8), dtype=bool)
    masks[1, :3, :4] = True
    scene = Scene(
        images=np.zeros((3, 6, 8, 3), dtype=np.uint8),
        T_world_cam=np.tile(np.eye(4), (3, 1, 1)),
        focals=np.full(3, 4.0),
        principal_point=np.array([3.5, 2.5]),
        depth=np.ones((3, 6, 8), dtype=np.float32),
        confidence=np.ones((3, 6, 8), dtype=np.float32),
        dynamic=DynamicMasks(masks, np.zeros((3, 1, 1), dtype=np.float32), 0.5),
        pixel_map=PixelMap((32, 24), (8, 6), (0, 0, 8, 6)),
        times=np.arange(3.0),
        indices=np.arange(3),
        names=("a",) * 3,
        source_paths=(Path("a"),) * 3,
        provenance={"num_pairs": 6, "graph": "complete"},
    )
    (tmp_path / "points.ply").write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1234\nend_header\n\xff"
    )
    (tmp_path / "transforms.json").write_text(json.dumps({"ply_file_path": "points.ply"}))
    weights = SimpleNamespace(name="tiny", licence="Apache-2.0")
    measured = measure(scene)
    verdict = judge(measured.measures)
    steps = next_steps(scene, measured, verdict, tmp_path)
    return SimpleNamespace(
        scene=scene,
        transforms_path=tmp_path / "transforms.json",
        weights=weights,
        num_source_frames=90,
        card=ReportCard(tmp_path / "report.html", tmp_path / "preview.mp4", verdict, steps),
    )


def test_flags_reach_the_run(monkeypatch: pytest.MonkeyPatch, result: SimpleNamespace) -> None:
    calls = []

    def process(data, output_dir, config, *, overwrite, log):
        calls.append((data, output_dir, config, overwrite))
        return result

    monkeypatch.setattr(run, "process", process)
    flags = "--num-frames-target 7 --weights tiny --no-adapt --num-downscales 1 --align.iterations 5 --overwrite"
    flags += " --refine colmap --camera-model opencv"
    parse(*flags.split()).main()
    ((data, output_dir, config, overwrite),) = calls
    assert (data, output_dir, overwrite) == (Path("clip.mp4"), Path("out"), True)
    assert config == run.RunConfig(
        FrameConfig(num_frames_target=7),
        Easi3RConfig(weights="tiny", no_adapt=True),
        AlignConfig(iterations=5),
        DatasetConfig(num_downscales=1),
        RefineConfig("colmap", "opencv"),
        keep_stages=True,
    )


def test_defaults_are_those_of_the_options() -> None:
    parsed = parse()
    assert (parsed.frames, parsed.config, parsed.align, parsed.dataset) == (
        FrameConfig(),
        Easi3RConfig(),
        AlignConfig(),
        DatasetConfig(),
    )
    assert not parsed.overwrite and not parsed.verbose


@pytest.mark.parametrize(
    ("error", "code"),
    [(AlignmentError("no"), 4), (RuntimeError("bug"), 1), (ValueError("bug"), 1), (KeyboardInterrupt(), 130)],
)
def test_main_exits_by_itself(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """nerfstudio's entry point catches RuntimeError and ValueError and would exit with 0."""

    def process(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(run, "process", process)
    with pytest.raises(SystemExit) as caught:
        parse().main()
    assert caught.value.code == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 1)


def test_existing_dataset_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "transforms.json").write_text("{}")
    with pytest.raises(SystemExit) as caught:
        ProcessEasi3R(data=tmp_path / "missing.mp4", output_dir=tmp_path).main()
    assert caught.value.code == 5
    assert "--overwrite" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["transforms.json"]


def shown(result: SimpleNamespace, log: RunLog, width: int = 100, **options: bool) -> str:
    out = io.StringIO()
    terminal = options.pop("terminal", False)
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    summary.print_summary(result, log, console, **options)
    return out.getvalue()


@pytest.fixture
def log() -> RunLog:
    stages = [StageRecord("encode [x]", 1.25, 2.5, 3 * 2**30), StageRecord("global alignment", 100.0, 11.0, 2**30)]
    return RunLog(stages, ["weights [a] are non-commercial"])


def test_summary_says_what_was_used_and_what_came_out(result: SimpleNamespace, log: RunLog) -> None:
    text = shown(result, log)
    for part in (
        "3 of 90, at 32x24",
        "8.3 % of the pixels on average (0.0 to 25.0)",
        "16 px of the 32x24 source, 90 degrees across",  # 4 network px = 16 source px; atan(16 / 16) = 45 degrees
        "1234 static points",
        "tiny (licence: Apache-2.0)",
        "time      1 min 41 s, of which 1 min 40 s to join all pairs into one scene; 3.0 GiB of memory",
        f"report    {result.card.report}",
        f"preview   {result.card.preview}",
    ):
        assert part in text
    assert "encode [x]" not in text and "6 (complete)" not in text
    text = shown(result, log, verbose=True)
    assert "6 (complete)" in text
    encode = next(line for line in text.splitlines() if line.startswith("encode [x]"))
    assert encode.split()[-3:] == ["1.2", "2.5", "3.00"]
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "101.2", "13.5", "3.00"]


def test_warnings_are_shown_once_and_the_verdict_and_what_to_do_come_last(result: SimpleNamespace, log: RunLog) -> None:
    lines = shown(result, log).splitlines()
    assert "warnings  one, shown above and in the report" in lines and "non-commercial" not in "".join(lines)
    verdict = next(k for k, line in enumerate(lines) if line.startswith("verdict   do not train: Only 0 % of the"))
    assert "The report names 2 more." in lines[verdict] and lines[verdict + 1].startswith("next      ")
    assert not any("ns-train" in line for line in lines)


def test_without_a_report_the_next_step_trains_or_shows(result: SimpleNamespace, log: RunLog) -> None:
    result.card = ReportCard()
    (line,) = [line for line in shown(result, log).splitlines() if line.startswith("next")]
    folder = result.transforms_path.parent
    assert line == f"next      ns-train splatfacto-easi3r --data {folder} easi3r-data --eval-mode interval"
    result.scene = replace(result.scene, pose_sources=(FIXED,) * 3)
    (line,) = [line for line in shown(result, log).splitlines() if line.startswith("next")]
    assert line == f"next      easi3r view {folder}"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_terminal_lines_break_between_words_and_commands_stay_whole(result, log, width: int) -> None:
    lines = shown(result, log, width, terminal=True).splitlines()
    whole = [line for line in lines if str(result.transforms_path.parent) in line]
    assert len(whole) >= 4 and all(len(line) < width for line in lines if line not in whole)
    joined = " ".join(line.strip() for line in lines)
    assert "Only 0 % of the pixels are static and have a trusted depth." in joined
    in_a_pipe = shown(result, log, width).splitlines()
    assert any(len(line) > width for line in in_a_pipe) and "\x1b" not in "".join(in_a_pipe)


def test_summary_says_which_cameras_were_kept(result: SimpleNamespace) -> None:
    assert "cameras" not in dict(summary.summary(result))
    scores = {"network": {"epipolar_px": 12.5}, "bundle adjustment": {"epipolar_px": 0.375}}
    result.scene.provenance["refine"] = {"kept": "bundle adjustment", **scores}
    assert dict(summary.summary(result))["cameras"] == (
        "of bundle adjustment (COLMAP): held-out matches fit to 0.38 px, before to 12.50 px"
    )
    result.scene.provenance["refine"]["kept"] = "network"
    assert "cameras" not in dict(summary.summary(result))


def test_summary_says_why_cameras_were_not_refined_and_what_auto_chose(result: SimpleNamespace) -> None:
    assert "chosen" not in dict(summary.summary(result))
    result.scene.provenance["refine"] = {"kept": "network", "why": "too little static texture"}
    result.scene.provenance["weights_choice"] = {"asked": "auto", "chosen": "tiny", "line": "--weights auto takes x"}
    lines = dict(summary.summary(result))
    assert lines["cameras"] == "the network's own: too little static texture"
    assert lines["chosen"] == "--weights auto takes x"


@pytest.mark.parametrize("width", [1, 10, 80, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_display_on_any_terminal(width: int, terminal: bool) -> None:
    out = io.StringIO()
    log = RichRunLog(console=Console(file=out, force_terminal=terminal, width=width, height=2))
    with log.stage("outer", 4) as advance:
        advance(2)
        with log.stage("inner [b]") as inner:
            inner()
        log.warn("look [here]")
        log.warn("look [here]")
        advance()
        advance(1)
    assert [stage.name for stage in log.stages] == ["inner [b]", "outer"]
    assert log.warnings == ["look [here]"]
    if not terminal:
        lines = out.getvalue().splitlines()
        assert lines[1] == "warning: look [here]"
        assert lines[0].startswith("done  inner [b]  ") and lines[2].startswith("done  outer  ")


def test_display_counts_what_was_done_in_words() -> None:
    out = io.StringIO()
    log = RichRunLog(console=Console(file=out, width=60))
    with log.stage("frames", 50) as advance:
        advance(20)
        advance()
    with log.stage("global alignment", 300) as advance:
        advance(300)
    with log.stage("dataset", 17) as advance:
        advance(17)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("done  read the frames, 21 frames  ")
    assert lines[1].startswith("done  join all pairs into one scene  ") and "300" not in lines[1]
    assert lines[2].startswith("done  write the dataset  ") and "17" not in lines[2]
    assert [stage.name for stage in log.stages] == ["frames", "global alignment", "dataset"]


def test_every_stage_has_words() -> None:
    """Names of stages in the source, as far as they are written there."""
    package = Path(summary.__file__).parents[1]
    text = "".join(p.read_text(encoding="utf-8") for p in package.rglob("*.py") if "training" not in p.parts)
    names = set(re.findall(r'log\.stage\(\s*"([^"]+)"', text))
    assert len(names) > 15
    assert names - set(STAGES) <= {"turntable", "find loops", "join windows", "align windows"} | {
        "align windows with one focal length"
    }


def test_details_are_for_those_who_ask() -> None:
    for verbose in (False, True):
        out = io.StringIO()
        log = RichRunLog(console=Console(file=out, width=60), verbose=verbose)
        log.detail("optical flow: dis")
        log.info("6 of 24 frames are used")
        assert ("optical flow" in out.getvalue()) is verbose and "6 of 24" in out.getvalue()


def test_long_lines_of_the_log_break_between_words_on_a_terminal_only() -> None:
    text = "the depth of every second frame is unknown " * 4
    for terminal in (True, False):
        out = io.StringIO()
        log = RichRunLog(console=Console(file=out, force_terminal=terminal, width=50, color_system=None))
        log.warn(text)
        log.info(text)
        lines = out.getvalue().splitlines()
        assert len(lines) == (2 if not terminal else 9) and " ".join("".join(lines).split()).count("unknown") == 8
        assert not terminal or max(map(len, lines)) < 50
        assert all(word in "warning: " + text for line in lines for word in line.split())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (42.4, "42 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3599.7, "1 h"),
        (15438.7, "4 h 17 min"),
        (86400, "1 day"),
        (200000, "2 days 8 h"),
    ],
)
def test_durations_are_said_in_hours_and_minutes(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_display_of_a_stage_that_fails() -> None:
    out = io.StringIO()
    log = RichRunLog(console=Console(file=out, force_terminal=True, width=60))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), log.stage("work", 3):
            raise KeyboardInterrupt
    assert log._progress is None
    assert "done" not in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in out.getvalue()  # the cursor is back


def test_plain_display_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 1000.0, 10.0))
    monkeypatch.setattr("easi3r_ns.cli.display.time.perf_counter", lambda: next(clock))
    out = io.StringIO()
    log = RichRunLog(console=Console(file=out, width=60))
    with log._plain("pairs", 4) as advance:
        for _ in range(4):
            advance()
    assert out.getvalue() == "      pairs, 50 %, about 20 s left\n"
