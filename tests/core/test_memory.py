"""A lack of memory is one line, whichever library meets it."""

from __future__ import annotations

import errno

import av
import cv2
import numpy as np
import pytest
import torch

from easi3r_ns.cli.run import exit_on_error
from easi3r_ns.core.errors import MemoryLimitError
from easi3r_ns.core.memory import lack_of_memory


def _caused() -> BaseException:
    error = RuntimeError("a stage failed")
    error.__cause__ = MemoryError()
    return error


def _of_torch() -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


def _of_numpy() -> BaseException:
    with pytest.raises(MemoryError) as caught:
        np.empty(2**50)
    return caught.value


LACKS = {
    "Python": MemoryError(),
    "numpy": _of_numpy(),
    "torch": _of_torch(),
    "torch on a GPU": torch.cuda.OutOfMemoryError("CUDA out of memory"),
    "OpenCV": cv2.error("OpenCV(4) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
    "COLMAP": RuntimeError("std::bad_alloc"),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "PyAV, without memory for a thread": av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    "a library that is loaded": ImportError("libtorch.so: failed to map segment from shared object"),
    "threads": RuntimeError("can't start new thread"),
    "a cause": _caused(),
}


@pytest.mark.parametrize("library", LACKS)
def test_a_lack_of_memory_is_one_line(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise LACKS[library]
    assert caught.value.code == MemoryLimitError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory") and "--num-frames-target" in line


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        ValueError("not enough memory"),
        OSError(errno.ENOSPC, "full"),
        BlockingIOError(errno.EAGAIN, "held"),
    ],
)
def test_other_errors_are_none(error: Exception) -> None:
    assert lack_of_memory(error) is None
