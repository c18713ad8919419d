"""Writing files so that a reader, or a run that was killed half-way, never meets a partial one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import OutputError
from .png import encode_png

JPEG_SUFFIX = ".jpg"
JPEG_QUALITY = 95
"""On filmed frames 44 to 47 dB (examples/results/writing.md)."""
SUFFIXES = {"png": ".png", "jpeg": JPEG_SUFFIX}
"""Value of ``--image-format`` -> how image files end."""
_WORTH = 0.85
"""Size of a compressed array over its own up to which it is compressed: pixels come to 0.87 to 0.9, in a third of the
time of a scene's file, depth to 0.85 and less."""
_SAMPLE = 1 << 18
"""Bytes from the middle of an array by which that is told."""
_npy: Any = np.lib.format  # numpy 1 has no types for it


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's complaints about writing ``path`` into an :class:`OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}. {_remedy(error)}") from error


def write_bytes(path: Path, content: bytes, durable: bool = False) -> None:
    """Write ``path`` atomically: it holds all of ``content`` or what it held before.

    An existing file is replaced, never written into, so hard links to the old one keep their content. ``durable``
    waits for the disk, so that this holds after a power cut too. Raises OutputError.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well and is deleted when it does not.

    ``suffix`` ends the temporary name, for libraries that choose the format by it. Raises OutputError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp{suffix}")
    with writing(path):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a ``.npz`` atomically, compressed where that saves; equal arrays give identical bytes.

    Raises OutputError.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", compresslevel=1) as archive:
        for name, array in arrays.items():
            values = np.asarray(array, order="C")
            member = zipfile.ZipInfo(f"{name}.npy")  # of a fixed date
            member.compress_type = zipfile.ZIP_DEFLATED if _compresses(values) else zipfile.ZIP_STORED
            with archive.open(member, "w", force_zip64=True) as file:
                _npy.write_array(file, values, allow_pickle=False)


def _compresses(values: NDArray[Any]) -> bool:
    content = values.reshape(-1).view(np.uint8)
    middle = max(0, (len(content) - _SAMPLE) // 2)
    sample = content[middle : middle + _SAMPLE].tobytes()
    return len(zlib.compress(sample, 1)) <= _WORTH * len(sample)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically; what a name holds beside text stands as an escape (``\\udcff``). Raises OutputError."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write strictly valid JSON atomically: NaN and infinities become null, arrays lists, paths text."""
    write_bytes(path, (json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n").encode(), durable=True)


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Write (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16, losslessly and atomically.

    Raises OutputError.
    """
    write_bytes(path, encode_png(image))


def write_image(path: Path, image: NDArray[Any]) -> None:
    """Write (H, W, 3) uint8 RGB atomically: JPEG where ``path`` ends in ``.jpg``, else as :func:`write_png`."""
    write_bytes(path, encode_jpeg(image)) if path.suffix == JPEG_SUFFIX else write_png(path, image)


def encode_jpeg(image: NDArray[Any]) -> bytes:
    """The JPEG file of (H, W, 3) uint8 RGB, of :data:`JPEG_QUALITY`, colours in full resolution."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    ok, encoded = cv2.imencode(JPEG_SUFFIX, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert ok, f"JPEG of {image.dtype} {image.shape}"
    return bytes(encoded)


def read_png(path: Path) -> NDArray[Any]:
    """(H, W, 3) uint8 RGB of an 8-bit colour PNG, or of a JPEG. Raises OSError when it cannot be read."""
    import cv2

    return cv2.cvtColor(decode_image(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decode_image(path: Path, flags: int) -> np.ndarray:
    """The pixels of an image file as OpenCV decodes them with its ``IMREAD_*`` flags: (H, W) or (H, W, C), BGR.

    ``cv2.imread`` itself takes no names with letters outside the code page on Windows, so Python reads the file.

    Raises:
        OSError: there is no such file, or it is not an image that OpenCV knows.
    """
    return decode_bytes(path.read_bytes(), flags, path)


def decode_bytes(content: bytes, flags: int, path: Path) -> np.ndarray:
    """:func:`decode_image` of the content of a file; ``path`` is named in the error.

    Raises:
        OSError: it is not an image that OpenCV knows, or one of more pixels than it reads.
    """
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags) if content else None
    except cv2.error as error:  # a header that announces too many pixels
        raise OSError(errno.EIO, f"not a readable image ({error.err})", str(path)) from error
    if image is None:
        raise OSError(errno.EIO, "not a readable image", str(path))
    return image


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where links are not possible. Raises OutputError."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with writing(target):
        try:
            try:
                os.link(source, temporary)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which runs of digits compare as numbers and text without regard to case."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part] + [(-1, 0, name)]


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents. Raises OutputError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def jsonable(value: Any) -> Any:
    """A copy of ``value`` that strict JSON can hold."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    return str(value)


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: free some space, or choose an --output-dir on another disk."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Choose an --output-dir in which you may write."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "A file lies where a folder is needed: choose another --output-dir."
    return "Check the --output-dir and its disk."
