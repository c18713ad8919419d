"""Masks that the user decides: they take the place of those that a pipeline would find.

A further source (a segmentation model, say) is a module with a :class:`MaskSource` and its entry in
:data:`MASK_SOURCES`; both pipelines, the forecast and the report then know it.
"""

from __future__ import annotations

from typing import Protocol

from ..core.config import Easi3RConfig
from ..core.types import DynamicMasks, Frames
from ..frames.user_masks import load_user_masks
from .attention.masks import static_masks


class MaskSource(Protocol):
    """Gives the masks of a clip, where the options ask for it."""

    def is_asked_for(self, config: Easi3RConfig) -> bool:
        """Whether these options choose this source."""

    def masks(self, config: Easi3RConfig, frames: Frames, patch_size: int) -> DynamicMasks:
        """Masks of all frames on the network's grid, whose tokens have sides of ``patch_size`` pixels.

        Raises:
            InputError: they cannot be had, with the remedy.
        """


class UserMasks:
    """``--masks DIR``."""

    def is_asked_for(self, config: Easi3RConfig) -> bool:
        """See :class:`MaskSource`."""
        return config.masks is not None

    def masks(self, config: Easi3RConfig, frames: Frames, patch_size: int) -> DynamicMasks:
        """See :func:`~easi3r_ns.frames.user_masks.load_user_masks`."""
        assert config.masks is not None
        return load_user_masks(config.masks, frames, patch_size)


class NothingMoves:
    """``--no-masks``."""

    def is_asked_for(self, config: Easi3RConfig) -> bool:
        """See :class:`MaskSource`."""
        return config.no_masks

    def masks(self, config: Easi3RConfig, frames: Frames, patch_size: int) -> DynamicMasks:
        """Masks in which nothing moves."""
        return static_masks(len(frames), *frames.images.shape[1:3], patch_size)


MASK_SOURCES: tuple[MaskSource, ...] = (UserMasks(), NothingMoves())
"""In the order in which they are asked."""


def masks_are_given(config: Easi3RConfig) -> bool:
    """Whether a pipeline finds no masks of its own."""
    return any(source.is_asked_for(config) for source in MASK_SOURCES)


def given_masks(config: Easi3RConfig, frames: Frames, patch_size: int) -> DynamicMasks | None:
    """The masks of the first source that is asked for; None: the pipeline has to find them.

    Raises:
        InputError: see :meth:`MaskSource.masks`.
    """
    for source in MASK_SOURCES:
        if source.is_asked_for(config):
            return source.masks(config, frames, patch_size)
    return None
