"""Options of nerfstudio's own processors, which people type out of habit: translated, or left out with one line.

:data:`FOREIGN` is the whole table. An option that is ours under the same name is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core.errors import InputError

_FALSE, _TRUE = ("false", "0", "no"), ("true", "1", "yes")


@dataclass(frozen=True)
class Translation:
    """What a foreign option means here."""

    words: tuple[str, ...] = ()
    """Our options in its place."""
    note: str = ""
    """What the user should know; empty where the option asks for what is done anyway."""


Meaning = Callable[[Sequence[str]], Translation]


@dataclass(frozen=True)
class Foreign:
    """A foreign option."""

    values: int
    """Number of values that follow; 0: a switch, with ``--no-`` for the opposite."""
    meaning: Meaning
    """Its translation; a switch is given ``true`` or ``false``."""


def _fixed(*words: str, note: str = "") -> Meaning:
    return lambda values: Translation(words, note)


def _switch(on: Translation = Translation(), off: Translation = Translation()) -> Meaning:
    return lambda values: on if values[0] == "true" else off


def _renamed(flag: str) -> Meaning:
    return lambda values: Translation((flag, *values), f"is {flag} here")


def _camera_type(values: Sequence[str]) -> Translation:
    (kind,) = values
    if kind in ("pinhole", "simple_pinhole"):
        return Translation(("--camera-model", "pinhole"), "is --camera-model pinhole here")
    if kind == "perspective":
        return Translation()
    if kind == "fisheye":
        return Translation(("--camera-model", "opencv-fisheye"), "is --camera-model opencv-fisheye here")
    if kind == "equirectangular":
        return Translation(("--projection", "equirect"), "is --projection equirect here")
    raise InputError(f"--camera-type {kind}: perspective, pinhole, simple_pinhole, fisheye or equirectangular")


def _sfm_tool(values: Sequence[str]) -> Translation:
    if values[0] == "hloc":
        return Translation(note="is left out: features are SIFT, found and matched by COLMAP")
    return Translation()


def _max_dataset_size(values: Sequence[str]) -> Translation:
    count = "0" if values[0] == "-1" else values[0]
    return Translation(("--num-frames-target", count), f"is --num-frames-target {count} here")


def _radius(values: Sequence[str]) -> Translation:
    if _number("--percent-radius-crop", values[0]) >= 1:
        return Translation()
    raise InputError(
        f"--percent-radius-crop {values[0]}: there is no circular crop; undistort the clip, or leave out the corners "
        "with masks of your own (--masks, which then also have to mark what moves)"
    )


def _crop_bottom(values: Sequence[str]) -> Translation:
    words = ("--crop-factor", "0", values[0], "0", "0")
    if not _number("--crop-bottom", values[0]):
        return Translation()
    return Translation(words, f"is {' '.join(words)} here")


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{flag} {text}: give a number") from None


_SAMPLED = "is left out: frames are spread evenly over the clip, without chance"
_PAIRS = "is left out: which frames are matched is chosen by the run"
_SIFT = "is left out: features are SIFT, found and matched by COLMAP"

FOREIGN = {
    "gpu": Foreign(0, _switch(off=Translation(("--device", "cpu"), "is --device cpu here"))),
    "random-seed": Foreign(1, _renamed("--seed")),
    "eval-random-seed": Foreign(1, _fixed(note=_SAMPLED)),
    "camera-type": Foreign(1, _camera_type),
    "sfm-tool": Foreign(1, _sfm_tool),
    "feature-type": Foreign(1, _fixed(note=_SIFT)),
    "matcher-type": Foreign(1, _fixed(note=_SIFT)),
    "matching-method": Foreign(1, _fixed(note=_PAIRS)),
    "refine-pixsfm": Foreign(0, _switch(Translation(note=_SIFT))),
    "refine-intrinsics": Foreign(
        0, _switch(off=Translation(note="is left out: the focal length is estimated unless --focal-length gives it"))
    ),
    "skip-colmap": Foreign(
        0,
        _switch(
            Translation(
                ("--refine", "none"),
                "is --refine none here: the network's cameras stay as they are. A COLMAP model that is there already "
                "is read by easi3r import",
            )
        ),
    ),
    "colmap-model-path": Foreign(
        1, _fixed(note="is left out: a COLMAP model that is there already is read by easi3r import")
    ),
    "colmap-cmd": Foreign(1, _fixed(note="is left out: COLMAP is called as a library (pycolmap)")),
    "skip-image-processing": Foreign(
        0,
        _switch(
            Translation(
                ("--num-downscales", "0"), "is --num-downscales 0 here: the images themselves are written in any case"
            )
        ),
    ),
    "images-per-equirect": Foreign(1, _renamed("--equirect-views")),
    "equirect": Foreign(
        0, _switch(Translation(("--projection", "equirect")), Translation(("--projection", "perspective")))
    ),
    "crop-bottom": Foreign(1, _crop_bottom),
    "percent-radius-crop": Foreign(1, _radius),
    "use-sfm-depth": Foreign(0, _switch(off=Translation(("--no-depths",), "is --no-depths here"))),
    "include-depth-debug": Foreign(0, _switch(Translation(note="is left out: preview.mp4 shows the depth"))),
    "same-dimensions": Foreign(
        0, _switch(off=Translation(note="is left out: sizes and orientations are read from the images"))
    ),
    "use-single-camera-mode": Foreign(
        0, _switch(off=Translation(("--align.no-shared-focal",), "is --align.no-shared-focal here"))
    ),
    "max-num-frames": Foreign(1, _renamed("--num-frames-target")),
    "max-dataset-size": Foreign(1, _max_dataset_size),
}
"""Name without dashes -> what it means here."""
OURS_WITHOUT_OPPOSITE = ("verbose", "overwrite")
"""Switches of ours that nerfstudio's processors, or tyro's habits, also spell with ``--no-``: what is done anyway."""


def translate(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments in which foreign options are replaced by ours, and a line for each that the user should know about.

    Both spellings are read, ``--name value`` and ``--name=value``, with dashes or underscores.

    Raises:
        InputError: an option asks for what is not done here, or lacks a value; the message says what to do.
    """
    ours: list[str] = []
    lines: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        name, positive = _named(flag)
        if name in OURS_WITHOUT_OPPOSITE and not positive:
            continue
        if name not in FOREIGN:
            ours.append(word)
            continue
        known = FOREIGN[name]
        if known.values == 0:
            given = [_truth(rest, value if equals else None, positive)]
            shown = flag
        else:
            given = ([value] if equals else []) + rest[: known.values - bool(equals)]
            if len(given) < known.values or any(word.startswith("--") for word in given):
                raise InputError(f"{flag}: give {known.values} value{'s' if known.values > 1 else ''} after it")
            rest = rest[known.values - bool(equals) :]
            shown = f"{flag} {' '.join(given)}"
        translation = known.meaning(given)
        ours += translation.words
        if translation.note:
            lines.append(f"{shown} {translation.note}")
    return ours, lines


def _named(flag: str) -> tuple[str, bool]:
    """The name of a flag, and whether it is not negated; an empty name for a word that is no flag."""
    if not flag.startswith("--"):
        return "", True
    name = flag[2:].replace("_", "-")
    opposite = name.removeprefix("no-")
    negated = opposite != name and (opposite in OURS_WITHOUT_OPPOSITE or _is_switch(opposite))
    return (opposite, False) if negated else (name, True)


def _is_switch(name: str) -> bool:
    return name in FOREIGN and FOREIGN[name].values == 0


def _truth(rest: list[str], value: str | None, positive: bool) -> str:
    """Whether a switch is on: ``--gpu``, ``--no-gpu``, ``--gpu False`` or ``--gpu=False``."""
    if value is None and rest and rest[0].lower() in (*_FALSE, *_TRUE):
        value = rest.pop(0)
    on = positive if value is None else (value.lower() in _TRUE) == positive
    return "true" if on else "false"
