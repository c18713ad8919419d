"""Several values after ``--data``: what a shell makes of a pattern without quotes, or several clips of one scene."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InputError

DATA, MORE = "--data", "--more-data"
FLAGS = (DATA, "--eval-data")
"""Options that take one source."""


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with several images after ``--data`` replaced by the pattern that names them.

    Of several clips the others than the first go to :data:`MORE`.

    Raises:
        InputError: no pattern names exactly these images, or there are several clips for evaluation.
    """
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag not in FLAGS:
            words.append(word)
            continue
        given = [value] if equals else []
        while rest and not rest[0].startswith("-"):
            given.append(rest.pop(0))
        if equals and len(given) == 1:
            words.append(word)  # the value may begin with a dash
        else:
            words += [flag, *(_several(flag, given) if len(given) > 1 else given)]
    return words


def data_first(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command that takes its sources without an option; those after ``--data`` go to the front."""
    front: list[str] = []
    others: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag != DATA:
            others.append(word)
            continue
        front += [value] if equals else []
        while not equals and rest and not rest[0].startswith("-"):
            front.append(rest.pop(0))
    return front + others


def _several(flag: str, given: list[str]) -> list[str]:
    from ..frames.sequence import matches
    from ..storage.kinds import HEIF_SUFFIXES, SUFFIXES

    paths = [Path(word) for word in given]
    images = [path for path in paths if path.suffix.lower() in SUFFIXES + HEIF_SUFFIXES]
    shown = f"{flag} {' '.join(given[:3])}{' ...' if len(given) > 3 else ''}"
    if len(images) < len(paths):
        if images:
            raise InputError(f"{shown}: some are images, some are not; give clips, or images, or folders of images")
        if flag != DATA:
            raise InputError(f"{shown}: {len(paths)} sources, and evaluation views are those of one; give one")
        return [given[0], MORE, *given[1:]]
    pattern = _pattern(paths)
    if pattern is None or set(matches(pattern) or ()) != set(paths):
        raise InputError(
            f"{shown}: {len(paths)} images; give their folder, or a pattern in quotes, for example {flag} "
            f"'{paths[0].parent / ('*' + paths[0].suffix)}'"
        )
    return [str(pattern)]


def _pattern(paths: list[Path]) -> Path | None:
    """What the names have in common at both ends; None: they lie in several folders."""
    if len({path.parent for path in paths}) > 1:
        return None
    names = [path.name for path in paths]
    begin = os.path.commonprefix(names)
    end = os.path.commonprefix([name[len(begin) :][::-1] for name in names])[::-1]
    return Path(glob.escape(str(paths[0].parent))) / f"{glob.escape(begin)}*{glob.escape(end)}"
