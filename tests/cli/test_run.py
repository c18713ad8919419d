"""The processor's shell: what it hands on, what it prints, how it fails; and the progress display."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from rich.console import Console

from easi3r_ns.cli import run as processor
from easi3r_ns.cli.display import RichRunLog
from easi3r_ns.cli.run import ProcessEasi3R
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.runlog import StageRecord
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.pipelines import run
from easi3r_ns.report.card import ReportCard
from easi3r_ns.report.measures import measure
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
    verdict = judge(measure(scene).measures)
    return SimpleNamespace(
        scene=scene,
        transforms_path=tmp_path / "transforms.json",
        weights=weights,
        num_source_frames=90,
        card=ReportCard(tmp_path / "report.html", tmp_path / "preview.mp4", verdict),
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


def test_summary_says_what_was_used_and_what_came_out(result: SimpleNamespace) -> None:
    out = io.StringIO()
    stages = [StageRecord("encode [x]", 1.25, 2.5, 3 * 2**30), StageRecord("align", 10.0, 11.0, 2**30)]
    processor.print_summary(result, stages, ["weights [a] are non-commercial"], Console(file=out, width=100))
    text = out.getvalue()
    for part in (
        "3 of 90, at 32x24",
        "6 (complete)",
        "8.3 % of the pixels on average (0.0 to 25.0)",
        "16 px of the 32x24 source, 90 degrees across",  # 4 network px = 16 source px; atan(16 / 16) = 45 degrees
        "1234 static points",
        "tiny (licence: Apache-2.0)",
        "weights [a] are non-commercial",
        "verdict   do not train: Only 0 % of the pixels are static",
        f"report    {result.card.report}",
        f"ns-train splatfacto easi3r-data --data {result.transforms_path.parent}",
    ):
        assert part in text
    encode = next(line for line in text.splitlines() if line.startswith("encode [x]"))
    assert encode.split()[-3:] == ["1.2", "2.5", "3.00"]
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "11.2", "13.5", "3.00"]


def test_summary_says_which_cameras_were_kept(result: SimpleNamespace) -> None:
    assert "cameras" not in dict(processor.summary(result))
    scores = {"network": {"epipolar_px": 12.5}, "bundle adjustment": {"epipolar_px": 0.375}}
    result.scene.provenance["refine"] = {"kept": "bundle adjustment", **scores}
    assert dict(processor.summary(result))["cameras"] == (
        "bundle adjustment (COLMAP): 0.38 px epipolar error on held-out matches, 12.50 px before"
    )
    result.scene.provenance["refine"]["kept"] = "network"
    assert "cameras" not in dict(processor.summary(result))


def test_summary_says_why_cameras_were_not_refined_and_what_auto_chose(result: SimpleNamespace) -> None:
    assert "chosen" not in dict(processor.summary(result))
    result.scene.provenance["refine"] = {"kept": "network", "why": "too little static texture"}
    result.scene.provenance["weights_choice"] = {"asked": "auto", "chosen": "tiny", "line": "--weights auto takes x"}
    lines = dict(processor.summary(result))
    assert lines["cameras"] == "the network's own: too little static texture"
    assert lines["chosen"] == "--weights auto takes x"


def test_next_command_quotes_the_folder() -> None:
    assert processor.next_command(Path("my clips/out")).endswith("--data 'my clips/out'")


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
        assert lines[0].startswith("done  inner [b]  ") and lines[2].startswith("done  outer, 4  ")


def test_display_counts_what_was_done() -> None:
    out = io.StringIO()
    with RichRunLog(console=Console(file=out, width=60)).stage("frames", 50) as advance:
        advance(20)
        advance()
    assert out.getvalue().startswith("done  frames, 21  ")


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
    assert out.getvalue() == "      pairs, 2/4, about 20 s left\n"
