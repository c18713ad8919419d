"""Masks that the user decides: they take the place of those that a pipeline would find.

A further source (a segmentation model, say) is a module with a :class:`MaskSource` and its entry in
:data:`MASK_SOURCES`; both pipelines, the forecast and the report then know it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..core.config import Easi3RConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames, SkippedFrames
from ..frames.mask_source import open_masks
from ..frames.user_masks import read_user_masks, user_masks_between
from .attention.masks import static_masks
from .polarity import white_moves

_MOST_NAMED = 10


@dataclass(frozen=True)
class FirstLook:
    """What a pipeline offers to a source of masks."""

    log: RunLog
    own: Callable[[], DynamicMasks]
    """The masks that the pipeline itself finds for all frames."""


class MaskSource(Protocol):
    """Gives the masks of a clip, where the options ask for it."""

    def is_asked_for(self, config: Easi3RConfig) -> bool:
        """Whether these options choose this source."""

    def masks(self, config: Easi3RConfig, frames: Frames, patch_size: int, look: FirstLook) -> DynamicMasks:
        """Masks of all frames on the network's grid, whose tokens have sides of ``patch_size`` pixels.

        Raises:
            InputError: they cannot be had, with the remedy.
        """


class UserMasks:
    """``--masks``."""

    def is_asked_for(self, config: Easi3RConfig) -> bool:
        """See :class:`MaskSource`."""
        return config.masks is not None

    def masks(self, config: Easi3RConfig, frames: Frames, patch_size: int, look: FirstLook) -> DynamicMasks:
        """See :func:`~easi3r_ns.frames.user_masks.read_user_masks`; missing ones by ``--masks-missing``."""
        assert config.masks is not None
        marked = read_user_masks(config.masks, frames, look.log)
        if marked.missing.any() and config.masks_missing == "error":
            raise InputError(_missing(config, frames, np.flatnonzero(marked.missing)))
        moving = marked.moving(white_moves(marked, frames, config, look.log))
        height, width = moving.shape[1] // patch_size, moving.shape[2] // patch_size
        score = np.zeros((len(frames), height, width), dtype=np.float32)
        if marked.missing.any() and config.masks_missing == "auto":
            found = look.own()
            moving[marked.missing], score[marked.missing] = found.masks[marked.missing], found.score[marked.missing]
        return DynamicMasks(moving, score, float("nan"), source="user")


class NothingMoves:
    """``--no-masks``."""

    def is_asked_for(self, config: Easi3RConfig) -> bool:
        """See :class:`MaskSource`."""
        return config.no_masks

    def masks(self, config: Easi3RConfig, frames: Frames, patch_size: int, look: FirstLook) -> DynamicMasks:
        """Masks in which nothing moves."""
        return static_masks(len(frames), *frames.images.shape[1:3], patch_size)


MASK_SOURCES: tuple[MaskSource, ...] = (UserMasks(), NothingMoves())
"""In the order in which they are asked."""


def check_given(config: Easi3RConfig) -> None:
    """Look whether ``--masks`` are there, before any work. Raises InputError."""
    if config.masks is not None:
        open_masks(config.masks, RunLog())  # a run opens them again, and then its log hears what there is to say


def masks_are_given(config: Easi3RConfig) -> bool:
    """Whether a pipeline finds no masks of its own, not even for some frames."""
    own = config.masks is not None and config.masks_missing == "auto"
    return not own and any(source.is_asked_for(config) for source in MASK_SOURCES)


def given_masks(config: Easi3RConfig, frames: Frames, patch_size: int, look: FirstLook) -> DynamicMasks | None:
    """The masks of the first source that is asked for; None: the pipeline has to find them.

    Raises:
        InputError: see :meth:`MaskSource.masks`.
    """
    for source in MASK_SOURCES:
        if source.is_asked_for(config):
            return source.masks(config, frames, patch_size, look)
    return None


def given_between(
    config: Easi3RConfig, frames: Frames, skipped: SkippedFrames, log: RunLog
) -> Callable[[int], np.ndarray] | None:
    """Row of ``skipped`` -> its mask by ``--masks``; None where these are not given, or do not reach all of them.

    Raises:
        InputError: see :func:`~easi3r_ns.frames.user_masks.user_masks_between`.
    """
    if config.masks is None:
        return None
    quiet = RunLog()  # what the masks mean has been said for the frames that are used
    white = white_moves(read_user_masks(config.masks, frames, quiet), frames, config, quiet)
    return user_masks_between(config.masks, frames, skipped, white, log)


def _missing(config: Easi3RConfig, frames: Frames, rows: np.ndarray) -> str:
    distinct = len(set(frames.names)) == len(frames)
    names = [frames.names[k] if distinct else f"{frames.names[k]} frame {frames.indices[k]}" for k in rows]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return (
        f"--masks {config.masks}: {len(rows)} of {len(frames)} used frames have no mask: "
        f"{', '.join(names[:_MOST_NAMED])}{more}. Add them, or give --masks-missing static (nothing moves there) or "
        "--masks-missing auto (what moves there is found as without --masks)"
    )
