"""The one command that prints the table of speed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.__main__ import Taken

QUICK = Taken(30.0, 40.0, 2**30, (("frames", 1.0), ("stereo", 20.0), ("mapping", 9.0), ("features", 8.0)), 24)
SLOW = Taken(60.0, 50.0, 2**31, QUICK.stages, 24)


def test_a_table_beside_another_checkout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def measure(checkout: Path, data: Path, options: tuple[str, ...]) -> Taken:
        asked.append((checkout.name, options[1]))
        return QUICK if checkout == bench.ROOT else SLOW

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "on_a_gpu", lambda: None)
    bench.main(["--runs", "none", "tiny", "--against", "other", "--repeats", "2"])
    assert [weights for _, weights in asked] == ["none"] * 4 + ["tiny"] * 4
    assert [name for name, _ in asked[:4]] == [bench.ROOT.name, "other"] * 2, "in turn"
    shown = capsys.readouterr().out
    assert "| none | 24 | 40 | 30 | 1.00 | 0.80 | 0.50 | 2.00 | stereo 20, mapping 9, features 8 |" in shown
    bench.main(["--runs", "none"])
    assert "of before" not in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no wait4")
def test_what_a_process_took(tmp_path: Path) -> None:
    package = tmp_path / "easi3r_ns"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import json, pathlib, sys, time\n"
        "content = bytearray(200_000_000)\n"
        "end = time.process_time() + 0.6\n"
        "while time.process_time() < end: pass\n"
        "out = pathlib.Path(sys.argv[-1]); out.mkdir()\n"
        "stages = [{'name': 'frames', 'cpu_seconds': 0.5}]\n"
        "(out / 'transforms.json').write_text(json.dumps({'frames': [1, 2], 'easi3r': {'stages': stages}}))\n",
        encoding="utf-8",
    )
    taken = bench.measure(tmp_path, tmp_path / "clip.mp4", ("--weights", "none"))
    assert taken.frames == 2 and taken.stages == (("frames", 0.5),)
    assert 0.6 <= taken.cpu < 5 and taken.wall >= 0.6 and taken.peak > 200e6
    (package / "__main__.py").write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError):
        bench.measure(tmp_path, tmp_path / "clip.mp4", ())


def test_the_command_is_there() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--help"], cwd=bench.ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--against" in shown
