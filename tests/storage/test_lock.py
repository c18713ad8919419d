"""One writer for a folder: on systems with fcntl, with msvcrt (Windows, played by a stand-in), and with neither."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from easi3r_ns.core.errors import OutputError
from easi3r_ns.storage.lock import only_writer

fcntl = pytest.importorskip("fcntl", reason="plays Windows by means of fcntl")


def play_windows(monkeypatch: pytest.MonkeyPatch, failure: int | None = None) -> None:
    """fcntl cannot be imported, and msvcrt locks files as Windows does; or fails with the given error number."""

    def locking(handle: int, mode: int, num_bytes: int) -> None:
        assert num_bytes == 1
        if mode == 0:
            fcntl.flock(handle, fcntl.LOCK_UN)
            return
        if failure is not None:
            raise OSError(failure, os.strerror(failure))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_UNLCK=0, LK_NBLCK=2, locking=locking))


@pytest.fixture(params=["unix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "windows":
        play_windows(monkeypatch)
    yield request.param


def test_the_second_writer_is_refused_until_the_first_is_done(tmp_path: Path, system: str) -> None:
    folder = tmp_path / "a" / "out"
    for _ in range(2):
        with only_writer(folder):
            with pytest.raises(OutputError, match="another run is writing to .*out: wait for it"), only_writer(folder):
                pytest.fail("two writers")
            with only_writer(tmp_path / "other"):
                pass
            (folder / "file").write_text("written")
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_an_error_frees_the_folder(tmp_path: Path, system: str) -> None:
    with pytest.raises(OSError, match="Resource temporarily unavailable"), only_writer(tmp_path / "out"):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")  # not to be taken for a held lock
    with only_writer(tmp_path / "out"):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom easi3r_ns.storage.lock import only_writer\n"
        "with only_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(100)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == "held"
            with pytest.raises(OutputError, match="another run"), only_writer(tmp_path):
                pytest.fail("two writers")
        finally:
            process.kill()
    with only_writer(tmp_path):
        pass


@pytest.mark.parametrize("system", ["unix", "windows"])
def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    def unsupported(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if system == "windows":
        play_windows(monkeypatch, failure=errno.EINVAL)
    else:
        monkeypatch.setattr(fcntl, "flock", unsupported)
    with only_writer(tmp_path / "out"), only_writer(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()


def test_so_is_a_system_without_either_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with only_writer(tmp_path / "out"), only_writer(tmp_path / "out"):
        assert (tmp_path / "out").is_dir()


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path, system: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--output-dir"), only_writer(tmp_path / "file" / "out"):
        pytest.fail("a folder inside a file")
