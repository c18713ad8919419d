"""Tables of implementations that can be listed, in help texts for instance, without importing any of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    name: str
    """What the user types."""
    module: str
    """Where the implementation is, with its package."""
    summary: str
    """What it is, in a phrase for help texts."""

    def load(self, attribute: str) -> Any:
        """The implementation: a value of its module."""
        return getattr(import_module(self.module), attribute)
