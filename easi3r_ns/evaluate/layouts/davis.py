"""DAVIS: ``JPEGImages/480p/NAME``, ``Annotations/480p/NAME``, ``ImageSets/YEAR/val.txt``; masks of moving objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...core.errors import InputError
from .layout import Layout, TrueClip, TrueFrame, first_folder, need

_SOURCE = "https://davischallenge.org/davis2017/code.html (TrainVal, 480p)"


def _sequences(*lists: str) -> Callable[[Path], Sequence[str]]:
    def names(folder: Path) -> list[str]:
        lines = [line for name in lists for line in need(folder / "ImageSets" / name).read_text().split("\n")]
        # The lists of 2016 hold names, or pairs of files: /JPEGImages/480p/NAME/00000.jpg /Annotations/...
        words = [line.split()[0] for line in lines if line.strip()]
        return list(dict.fromkeys(Path(word).parent.name if "/" in word else word for word in words))

    return names


def _read(folder: Path, name: str) -> TrueClip:
    images = sorted(need(folder / "JPEGImages" / "480p" / name).glob("*.jpg"))
    if not images:
        raise InputError(f"{folder / 'JPEGImages' / '480p' / name} holds no image")
    masks = folder / "Annotations" / "480p" / name
    frames = [TrueFrame(image, image.name, mask=need(masks / f"{image.stem}.png")) for image in images]
    return TrueClip(name, tuple(frames))


def _layout(title: str, *lists: str) -> Layout:
    folder = first_folder("DAVIS", holds=("JPEGImages/480p", "Annotations/480p", *(f"ImageSets/{n}" for n in lists)))
    wanted = "DAVIS/ with JPEGImages/480p, Annotations/480p and ImageSets"
    return Layout(title, _SOURCE, "every frame", folder, wanted, _sequences(*lists), _read)


LAYOUTS = {
    "davis-16": _layout("DAVIS-2016", "2016/val.txt"),
    "davis-17": _layout("DAVIS-2017", "2017/val.txt"),
    "davis-all": _layout("DAVIS-all", "2017/train.txt", "2017/val.txt"),
}
