"""Which files are images: by their names, and by how they begin."""

from __future__ import annotations

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")
"""Images that Pillow reads."""
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
"""Images that pillow-heif reads."""
HEIF_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"mif2", b"msf1", b"avif", b"avis"),
)
"""Major brands of HEIF and AVIF files, single images and sequences (ISO/IEC 23008-12); those of videos are others."""
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
"""Folders that macOS and network storage leave beside the files of the user, with copies of them."""
HEAD = 12
"""Bytes that :func:`is_image` wants."""
_BEGINNINGS = (b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8", b"\x89PNG\r\n\x1a\n")


def is_image(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an image of a kind that is read here."""
    heif = head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return heif or webp or head.startswith(_BEGINNINGS)
