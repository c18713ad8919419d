"""Help texts: short, with units and defaults, complete on request, in words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from easi3r_ns.cli.fields import commands, options_of
from easi3r_ns.cli.help import BASIC, page
from easi3r_ns.cli.main import Commands, main
from easi3r_ns.cli.run import ProcessEasi3R

ROOT = Path(__file__).parents[2]
ALL = dict(commands(Commands, "easi3r"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("--help",), ("run", "-h"), ("weights", "--help"), *[(c,) for c in ALL]])
def test_help_is_short_and_in_words(arguments, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    if arguments[0].startswith("easi3r"):
        arguments = (*arguments[0].split()[1:], "--help")
    lines = printed(capsys, *arguments).splitlines()
    assert lines[0].startswith("usage: easi3r") and 3 < len(lines) < 60
    assert max(map(len, lines)) < 80
    text = "\n".join(lines)
    for word in ("(default: True)", "(default: False)", "{None}", "config options", "frames options", "--no-no-"):
        assert word not in text


def test_everything_is_shown_on_request(capsys) -> None:
    short, full = printed(capsys, "run", "--help"), printed(capsys, "run", "--help-all")
    for flag in "--data --output-dir --weights --masks --start --focal-length --refine --overwrite".split():
        assert re.search(rf"^  {flag}\b", short, re.MULTILINE), flag
    for flag in "--align.iterations --align.no-shared-focal --no-depths --seed --graph --dtype".split():
        assert flag not in short and flag in full
    count = int(re.search(r"--help-all shows (\d+) more", short)[1])
    assert count > 20 and full.count("\n  --") == short.count("\n  --") + count
    assert "config options" not in full and "Global alignment: all pairs into one scene" in full


def test_a_switch_says_what_it_does_and_not_true_or_false() -> None:
    full = " ".join(page(ProcessEasi3R, "x", everything=True).split())
    assert "--no-loop-closure Switch off: where windows are joined" in full
    assert "--depths, --no-depths Write depth maps. Default: on." in full
    assert "--num-frames-target INT Number of frames to use" in full and "Default: 50." in full


def test_basic_options_exist() -> None:
    own = {option.name for cls in ALL.values() for option in options_of(cls)[0]}
    shared = {
        option.name for cls in ALL.values() for group in options_of(cls)[1] for option in options_of(group.cls)[0]
    }
    assert BASIC <= own | shared


@pytest.mark.parametrize("columns", ["20", "40", "80", "120", "1000"])
def test_help_fits_the_terminal(columns, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    widest = max(len(line) for line in page(ProcessEasi3R, "easi3r run", everything=True).splitlines())
    assert widest <= min(100, max(60, int(columns)))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports closed pipes in another way")
@pytest.mark.parametrize("arguments", [["run", "--help-all"], ["--help"], ["weights", "list"]])
def test_a_reader_that_goes_away_is_no_error(arguments) -> None:
    """`easi3r ... | head`: no traceback, whenever the pipe is closed."""
    command = [sys.executable, "-m", "easi3r_ns", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() in (0, 1)
