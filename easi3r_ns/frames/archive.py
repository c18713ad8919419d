"""A ZIP archive of images as a source of frames. Images are unpacked one at a time, to a temporary folder."""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import InputError
from ..storage.files import natural_key
from ..storage.kinds import HEIF_SUFFIXES, SUFFIXES, SYSTEM_FOLDERS
from .images import ImageFolder, usable
from .video import Video

_MOST_MEMBERS = 1_000_000
_LARGEST_IMAGE = 2 << 30
"""Bytes of one image file. A 16-bit TIFF of 100 megapixels has 0.6 GiB."""
_MOST_SHRUNK = 500
"""Unpacked bytes per packed byte of an image file, at most, above :data:`_SMALL`. Deflate reaches 1032 on zeros alone;
an uncompressed rendering with an even background reaches 100."""
_SMALL = 64 << 20
_ENCRYPTED = 0x1
_MAGIC = b"PK\x03\x04"


class ImageArchive(ImageFolder):
    """Images of one folder of an archive, in natural order."""

    def __init__(self, path: Path, inside: str = "") -> None:
        """Read the list of contents. Raises InputError for an archive that is damaged, locked, unsafe or unclear."""
        self.path, self.folder = path, path / inside if inside else path
        members = _members(path)
        if members and not any(_is_image(member.filename) for member in members):
            held = ", ".join(member.filename for member in members[:3]) + (", ..." if len(members) > 3 else "")
            raise InputError(f"{path} holds no image ({held}): unpack it and give what is in it")
        folder = _folder_of_images(members, path, inside)
        self._members = {
            member.filename: member for member in members if str(PurePosixPath(member.filename).parent) == folder
        }
        images = [Path(name) for name, member in self._members.items() if not member.is_dir() and _is_image(name)]
        self.files = usable(sorted(images, key=lambda file: natural_key(file.name)), self.folder)

    def signature(self) -> dict[str, Any]:
        """What must be unchanged for extracted frames to be valid still."""
        return Video(self.path).signature() | {"inside": str(self.folder), "members": len(self.files)}

    @contextlib.contextmanager
    def file(self, index: int) -> Iterator[Path]:
        """The image as a file that exists for the time of the block. Raises InputError where it cannot be unpacked."""
        name = self.files[index]
        member = self._members[name.as_posix()]
        with tempfile.TemporaryDirectory(prefix="easi3r_") as folder:
            # The name of the member decides nothing but the suffix, so no name can lead out of the folder.
            path = Path(folder) / f"image{name.suffix.lower()}"
            try:
                with zipfile.ZipFile(self.path) as archive, archive.open(member) as packed, path.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
                raise InputError(f"{self.path}: {name.as_posix()} cannot be unpacked: {error}") from error
            try:
                yield path
            except InputError as error:
                raise InputError(str(error).replace(str(path), f"{self.path}/{name.as_posix()}")) from error


def is_archive(path: Path) -> bool:
    """Whether a file is a ZIP archive, by its name or its first bytes."""
    if path.suffix.lower() == ".zip":
        return True
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def inside_archive(data: Path) -> tuple[Path, str] | None:
    """``shots.zip/left`` -> the archive and the folder inside it; None: no part of the path is an archive."""
    for parent in data.parents:
        if parent.is_file() and is_archive(parent):
            return parent, data.relative_to(parent).as_posix()
    return None


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES + HEIF_SUFFIXES


def _hidden(name: str) -> bool:
    """Files that systems add, and hidden ones."""
    return any(part in SYSTEM_FOLDERS or part.startswith(".") for part in PurePosixPath(name).parts)


def _members(path: Path) -> list[zipfile.ZipInfo]:
    """The visible files of an archive. Everything here is read from its list of contents, nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} cannot be read as a ZIP archive ({error}): unpack it and give the folder") from error
    if len(members) > _MOST_MEMBERS:
        raise InputError(f"{path} holds {len(members)} files, at most {_MOST_MEMBERS} are read")
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in (name.parts or ("",))[0]:
            raise InputError(f"{path} holds the name {member.filename!r}, which leads out of the archive: not used")
    shown = [member for member in members if not (member.is_dir() or _hidden(member.filename))]
    images = [member for member in shown if _is_image(member.filename)]
    _refuse_bombs(path, images)
    for member in images:
        if member.flag_bits & _ENCRYPTED:
            raise InputError(f"{path} is protected by a password: unpack it and give the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{path}: {member.filename} is a link, not an image: unpack it and give the folder")
    return shown


def _refuse_bombs(path: Path, images: list[zipfile.ZipInfo]) -> None:
    for member in images:
        gibibytes = member.file_size / 2**30
        if member.file_size > _LARGEST_IMAGE:
            raise InputError(
                f"{path}: {member.filename} would have {gibibytes:.1f} GiB, an image has at most "
                f"{_LARGEST_IMAGE / 2**30:g}: not unpacked"
            )
        if member.file_size > _SMALL and member.file_size > _MOST_SHRUNK * max(1, member.compress_size):
            raise InputError(
                f"{path}: {member.filename} would grow from {member.compress_size} bytes to {gibibytes:.2f} GiB, as no "
                "image does: not unpacked"
            )
    if sum(member.compress_size for member in images) > path.stat().st_size:
        raise InputError(f"{path}: its files overlap, as in an archive made to fill a disk: not unpacked")


def _folder_of_images(members: list[zipfile.ZipInfo], path: Path, inside: str) -> str:
    """The folder, as a member's parent, whose images are meant; raises InputError where that is not clear."""
    counts: dict[str, int] = defaultdict(int)
    for member in members:
        if _is_image(member.filename):
            counts[str(PurePosixPath(member.filename).parent)] += 1
    if inside:
        wanted = str(PurePosixPath(inside))
        if wanted not in counts:
            raise InputError(f"{path} holds no folder {wanted} with images; it holds {_listed(counts) or 'no image'}")
        return wanted
    if len(counts) > 1:
        most = max(counts, key=lambda folder: counts[folder])
        remedy = f"give one of them, for example --data '{path / most}'" if most != "." else "keep one folder of them"
        raise InputError(f"{path} holds images in {len(counts)} folders ({_listed(counts)}): {remedy}")
    return next(iter(counts), ".")


def _listed(counts: dict[str, int]) -> str:
    folders = sorted(counts, key=natural_key)
    named = ", ".join(f"{folder}: {counts[folder]}" for folder in folders[:5])
    return named + (", ..." if len(folders) > 5 else "")
