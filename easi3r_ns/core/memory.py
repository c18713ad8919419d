"""Which exceptions mean that the memory did not suffice, and what to say then."""

from __future__ import annotations

import errno
import re

_GPU = "OutOfMemoryError"
"""Name of torch's exception class; it is not imported for it."""
_SIGNS = re.compile(
    r"not enough memory|can(?:'|no)t allocate memory|insufficient memory|bad_alloc|out of memory|failed to map segment"
    r"|failed to create thread|can't start new thread|resource temporarily unavailable",
    re.IGNORECASE,
)
"""What torch, OpenCV, PyAV, COLMAP, the loader of shared libraries and Python's threads say."""
_KINDS = (RuntimeError, ImportError, SystemError)
"""Classes of exceptions whose text is searched; cv2.error is none of them, but known by its name."""


def lack_of_memory(error: BaseException) -> str | None:
    """One line with a remedy where ``error``, or what caused it, is a lack of memory; None for any other error."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if type(cause).__name__ == _GPU:
            return "out of memory on the GPU: give --batch-size 1, fewer frames (--num-frames-target), or --device cpu"
        if _is_lack(cause):
            return (
                "out of memory: give fewer frames (--num-frames-target) or a --max-memory that the machine has, close "
                "other programs, or raise the limit of the process (ulimit -v)"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _is_lack(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        no_thread = error.errno == errno.EAGAIN and type(error).__module__.startswith("av.")
        return error.errno == errno.ENOMEM or no_thread
    native = isinstance(error, _KINDS) or f"{type(error).__module__}.{type(error).__name__}" == "cv2.error"
    return native and _SIGNS.search(str(error)) is not None
