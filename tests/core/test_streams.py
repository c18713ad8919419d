"""Standard streams that are closed, full, or of another encoding: the work decides how a command ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from easi3r_ns.core.streams import SteadyStream, steady_streams

ROOT = Path(__file__).parents[2]
WORK = """
import pathlib, sys
from rich.console import Console
from easi3r_ns.cli.display import RichRunLog
from easi3r_ns.cli.run import exit_on_error
from easi3r_ns.core.errors import OutputError
with exit_on_error():
    log = RichRunLog()
    for number in range(300):
        with log.stage(f"stage {number} \\u2192 caf\\u00e9 \\udcff", 1) as advance:
            advance(1)
        Console(highlight=False).print(f"line {number} \\u2192 caf\\u00e9 \\udcff " + "x" * 100, soft_wrap=True)
    log.warn("look \\u201chere\\u201d")
    pathlib.Path(sys.argv[1]).write_text("complete")
    if sys.argv[2] == "fails":
        raise OutputError("no \\u2192 \\udcff")
"""
"""A command with much output; its exit code is that of its work, 0 or 5."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="the shell of POSIX systems")


def shell(tmp_path: Path, redirection: str, *, fails: bool = False, **environment: str) -> tuple[int, str, str]:
    """Exit code of the command in a shell with this redirection, and what reached stdout and stderr."""
    script, done = tmp_path / "work.py", tmp_path / "done"
    script.write_text(WORK, encoding="utf-8")
    done.unlink(missing_ok=True)
    command = f'"{sys.executable}" "{script}" "{done}" {"fails" if fails else "works"} {redirection}'
    # The code of the command, not that of a pipe's last member.
    text = f"set -o pipefail; {command}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""} | environment
    result = subprocess.run(["bash", "-c", text], capture_output=True, env=env, timeout=300)
    assert done.read_text() == "complete"
    return result.returncode, result.stdout.decode("utf-8", "replace"), result.stderr.decode("utf-8", "replace")


@posix
@pytest.mark.parametrize(
    "redirection",
    [
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        "| head -1",
        "2>&1 | head -1",
        "| true",
        ">/dev/full",
        "2>/dev/full",
        "&>/dev/full",
    ],
)
def test_the_work_decides_the_exit_code(tmp_path: Path, redirection: str) -> None:
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    code, _, said = shell(tmp_path, redirection)
    assert code == 0 and "Traceback" not in said and "Exception ignored" not in said


@posix
@pytest.mark.parametrize("redirection", ["| head -1", "<&- >&- 2>&-", "2>/dev/full"])
def test_an_error_keeps_its_exit_code(tmp_path: Path, redirection: str) -> None:
    assert shell(tmp_path, redirection, fails=True)[0] == 5


@posix
def test_text_that_waits_for_the_end_changes_no_exit_code() -> None:
    """The interpreter flushes once more when it ends."""
    script = "from easi3r_ns.core.streams import steady_streams\nwith steady_streams():\n    print(1)"
    for device in ("/dev/full", "&-"):
        if device.startswith("/") and not Path(device).exists():
            continue
        command = f"\"{sys.executable}\" -c '{script}' >{device}"
        result = subprocess.run(
            ["bash", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}, timeout=300
        )
        assert result.returncode == 0


@posix
def test_a_full_device_is_told_once(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    _, _, said = shell(tmp_path, ">/dev/full")
    assert said.count("warning: the output could not be written: No space left on device") == 1


@posix
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb", "NO_COLOR": "1"},
    ],
    ids=lambda environment: next(iter(environment.items()))[1],
)
def test_any_text_on_any_terminal(tmp_path: Path, environment: dict[str, str]) -> None:
    code, out, said = shell(tmp_path, "", fails=True, **environment)
    assert code == 5 and len(out.splitlines()) == 300
    assert "Traceback" not in said and "\x1b" not in out + said
    assert said.splitlines()[-1].startswith("error: no ")
    assert "\\udcff" in said.splitlines()[-1]


@posix
def test_a_closed_stream_does_not_lend_its_number_to_a_file(tmp_path: Path) -> None:
    """What native libraries print would land in the file."""
    script = (
        "import os, sys\nfrom easi3r_ns.core.streams import steady_streams\n"
        "with steady_streams():\n    file = open(sys.argv[1], 'w')\n    os.write(1, b'out')\n    os.write(2, b'err')\n"
        "    print('x'); print('y', file=sys.stderr); file.write('mine'); file.close()\n"
    )
    command = f'"{sys.executable}" -c \'{script.replace(chr(39), chr(34))}\' "{tmp_path / "file"}" <&- >&- 2>&-'
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    assert subprocess.run(["bash", "-c", command], env=env, timeout=300).returncode == 0
    assert (tmp_path / "file").read_text() == "mine"


class Refuses(io.StringIO):
    encoding = "ascii"

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_stream_that_refuses_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Refuses())
    monkeypatch.setattr(sys, "stderr", errors)
    with steady_streams():
        print("one")
        print("two")
        assert isinstance(sys.stdout, SteadyStream)
        with steady_streams():  # a command in a command
            print("three")
    assert isinstance(sys.stdout, Refuses) and sys.stderr is errors
    assert errors.getvalue() == "warning: the output could not be written: No space left on device\n"


def test_the_streams_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout
    with pytest.raises(RuntimeError), steady_streams():
        raise RuntimeError
    assert sys.stdout is before
