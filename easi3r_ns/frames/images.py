"""A folder of images as a source of frames."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.install import install_extra
from ..core.runlog import RunLog
from ..core.types import RecordedFocal
from ..storage.files import decode_bytes, natural_key
from ..storage.kinds import HEIF_SUFFIXES, SUFFIXES, SYSTEM_FOLDERS
from ..storage.orientation import TURNED, as_stored, by_exif, holds_floats, upright
from .cuts import Watch, thumb_size, thumbnail
from .focal import photo_focal, read_tags
from .shapes import as_text, counted, of_size, upright_size


class ImageFolder:
    """Images of one folder (not of its subfolders) in natural order: ``a_2.png`` comes before ``a_10.png``."""

    unit = "images"
    """Unit of the time stamps: a folder has no clock, so image k is at k."""
    shows_all = False
    """Whether reading decodes frames that were not asked for: images of a folder are read one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _list_images(folder)

    def keep_size(self, wanted: tuple[int, int]) -> None:
        """Leave out images without the ``wanted`` upright (width, height); raises InputError for fewer than two."""
        self.files = tuple(self.files[k] for k in of_size(self.sizes(), wanted, self.folder))

    def signature(self) -> dict[str, Any]:
        """What must be unchanged for extracted frames to be valid still."""
        files = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files]
        return {"folder": str(self.folder.resolve()), "files": [list(entry) for entry in files]}

    def times(self, select: FrameConfig, log: RunLog) -> np.ndarray:
        """(n,) float64 0, 1, 2, ...; raises InputError for an option that needs a clock."""
        if select.fps is not None:
            raise InputError(
                f"--fps {select.fps:g} needs a video, and the images of {self.folder} have no clock: use "
                "--num-frames-target"
            )
        return np.arange(len(self.files), dtype=float)

    def recount(self, log: RunLog) -> np.ndarray:
        """Raises InputError: unlike a damaged frame of a video, an image that cannot be read is not skipped."""
        raise InputError(f"{self.folder}: an image disappeared while it was read; run again")

    def name(self, index: int) -> str:
        """File name of image ``index``."""
        return self.files[index].name

    def focals(self, indices: Sequence[int], source_wh: tuple[int, int]) -> list[RecordedFocal | None]:
        """What the images ``indices``, of ``source_wh`` upright pixels, say about their focal lengths."""
        found = []
        for index in indices:
            with self.file(index) as path:
                found.append(photo_focal(read_tags(path), source_wh))
        return found

    def glance(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        """(h, w) uint8 grey of image ``index``, upright, in the size of :func:`~.cuts.thumbnail`; its full size.

        Decodes no more than this size asks for, where the format allows it. Raises InputError for a damaged file.
        """
        with self.file(index) as path:
            return glance(path)

    @contextlib.contextmanager
    def file(self, index: int) -> Iterator[Path]:
        """The path of image ``index``, valid inside the block."""
        yield self.files[index]

    def refuse_mixed(self, indices: Sequence[int]) -> None:
        """Raise InputError where the images ``indices`` differ in size, by their headers; nothing is decoded."""
        first: tuple[int, tuple[int, int]] | None = None
        for index in indices:
            with self.file(index) as path:
                size = upright_size(path)
            if size is None:
                continue  # whoever decodes it says why
            first = first or (index, size)
            if size != first[1]:
                raise self._mixed(first, (index, size))

    def _mixed(self, one: tuple[int, tuple[int, int]], other: tuple[int, tuple[int, int]]) -> InputError:
        shown = [f"{self.name(index)} is {as_text(size)}" for index, size in (one, other)]
        return InputError(
            f"the images differ in size: {', '.join(shown)}. {self.folder} holds {counted(self.sizes(), self.folder)}"
        )

    def sizes(self) -> list[tuple[int, int] | None]:
        """(width, height) of the upright images, from their headers; None for one that cannot be read."""
        sizes = []
        for index in range(len(self.files)):
            with self.file(index) as path:
                sizes.append(upright_size(path))
        return sizes

    def read(self, indices: Sequence[int], log: RunLog, watch: Watch | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Upright (H, W, 3) uint8 RGB of the images ``indices``, in this order; ``watch`` sees the same. InputError."""
        first: tuple[int, tuple[int, int]] | None = None
        for index in indices:
            with self.file(index) as path:
                image = read_image(path, log)
            size = (image.shape[1], image.shape[0])
            first = first or (index, size)
            if size != first[1]:
                raise self._mixed(first, (index, size))
            if watch is not None:
                watch(int(index), thumbnail(image))
            yield int(index), image


def read_image(path: Path, log: RunLog) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright. 16 bits are scaled to 8, grey becomes RGB, alpha is dropped with a warning.

    Raises InputError when the file is damaged or holds floating-point values.
    """
    try:
        original = path.read_bytes()
        if holds_floats(original):
            raise InputError(f"{path} holds floating-point values: convert it to 8 or 16 bits")
        content, orientation = as_stored(original)
        with Image.open(io.BytesIO(original if orientation is None else content)) as image:
            image.load()
            if _shows_through(image):
                log.warn("transparency is ignored: images with an alpha channel are used as if they were opaque")
            turn = by_exif(image) if orientation is None else orientation
            return upright(_eight_bit_rgb(image, content, path), turn)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(path, error) from error


def glance(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """See :meth:`ImageFolder.glance`."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                size, stored_wh = thumb_size(*image.size), image.size
                image.draft("L", size)  # a half, a quarter or an eighth of the pixels are decoded
                turn = by_exif(image)
                grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX))
                return upright(grey, turn), stored_wh[::-1] if turn in TURNED else stored_wh
        whole = read_image(path, RunLog())  # its warnings are for those that are used
        return thumbnail(whole), (whole.shape[1], whole.shape[0])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, UnidentifiedImageError):
        size = path.stat().st_size if path.exists() else 0
        error = ValueError("it is no image, or its beginning is lost" if size else "it has 0 bytes")
    return InputError(f"{path} cannot be read as an image ({error}): replace or remove it")


def _list_images(folder: Path) -> tuple[Path, ...]:
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    images = [file for file in files if file.suffix.lower() in SUFFIXES + HEIF_SUFFIXES]
    return usable(sorted(images, key=lambda file: natural_key(file.name)), folder)


def usable(images: Sequence[Path], data: Path) -> tuple[Path, ...]:
    """The image files of ``data``, in their order; raises InputError where they are too few or need a library."""
    heif = [file for file in images if file.suffix.lower() in HEIF_SUFFIXES]
    if heif and not _register_heif():
        raise InputError(f"{heif[0]} is a HEIF image: {install_extra('heif')} to read it, or convert it to JPEG")
    if len(images) < 2:
        held = "no image" if not images else f"one image ({images[0].name})"
        raise InputError(
            f"{data} holds {held}: give a video, or a folder with at least 2 images "
            f"({', '.join(suffix[1:] for suffix in SUFFIXES + HEIF_SUFFIXES)}){_others(data) if not images else ''}"
        )
    return tuple(images)


def _others(data: Path) -> str:
    """What a folder without images holds instead, for a message."""
    if not data.is_dir():
        return ""
    entries = sorted((x for x in data.iterdir() if not x.name.startswith((".", *SYSTEM_FOLDERS))), key=lambda x: x.name)
    for below in (entry for entry in entries if entry.is_dir()):
        with contextlib.suppress(OSError):  # a folder that may not be read holds nothing for us
            if sum(file.suffix.lower() in SUFFIXES + HEIF_SUFFIXES for file in below.iterdir()) > 1:
                return f"; there are images in {below}: give that"
    files = [entry.name for entry in entries if entry.is_file()]
    return (
        f"; what is there is of other kinds ({', '.join(files[:3])}{', ...' if len(files) > 3 else ''})"
        if files
        else ""
    )


def _register_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _shows_through(image: Image.Image) -> bool:
    """Whether a pixel is not opaque."""
    if image.mode == "LAB" or not (image.mode[-1] in "Aa" or "transparency" in image.info):
        return False
    with image.convert("RGBA") as shown:
        return bool(np.asarray(shown.getchannel("A")).min() < 255)


def _eight_bit_rgb(image: Image.Image, content: bytes, path: Path) -> np.ndarray:
    """Pixels of an image as it is stored; ``content`` is its file without orientation."""
    if image.mode == "F":
        raise InputError(f"{path} holds floating-point values: convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise InputError(f"{path} holds values outside 0..65535: convert it to 8 or 16 bits")
        return np.repeat(_eight_bits(grey)[..., None], 3, axis=-1)
    if _sixteen_bit_colour(image, content):
        return _eight_bits(_read_sixteen_bit_colour(image, content, path))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    # 65535 = 255 * 257: rounding keeps white white and does not darken everything by half a step.
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)


def _sixteen_bit_colour(image: Image.Image, content: bytes) -> bool:
    return image.format in ("PNG", "TIFF") and image.mode in ("RGB", "RGBA") and _bits(image, content) == 16


def _bits(image: Image.Image, content: bytes) -> int:
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))
    return content[24] if content[12:16] == b"IHDR" else 8


def _read_sixteen_bit_colour(image: Image.Image, content: bytes, path: Path) -> np.ndarray:
    # Pillow keeps only the high byte of 16-bit colour, OpenCV reads all of it.
    import cv2

    values = decode_bytes(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION, path)
    if values.dtype != np.uint16 or values.shape[:2] != image.size[::-1] or values.ndim != 3:
        raise InputError(f"{path} cannot be read as a 16-bit image: convert it to 8 bits")
    return values[..., 2::-1]
