"""What loading pycolmap changes in the process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytest.importorskip("pycolmap")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_run_that_is_told_to_end_ends_without_a_stack_trace() -> None:
    code = (
        "import os, signal\n"
        "from easi3r_ns.refine.library import load_pycolmap\n"
        "load_pycolmap()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM and done.stderr == ""
