"""What a program that reads folders is made of, and what it says about one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .tree import Tree

State = Literal["pass", "note", "fail"]


@dataclass(frozen=True)
class RuleResult:
    """One rule, applied."""

    state: State
    """'note': it is read, but something of it is not used or has to be known."""
    what: str
    """The rule and the value that was found."""
    remedy: str = ""
    """What to type or to do; empty for a pass."""


@dataclass(frozen=True)
class Consumer:
    """One program. Its module holds one under the name ``CONSUMER`` and is listed in :mod:`easi3r_ns.check`."""

    title: str
    fits: Callable[[Tree], bool]
    """Whether the folder is of a kind that the program reads at all."""
    examine: Callable[[Tree], list[RuleResult]]
    """All rules, in the order in which the program meets them. Raises InputError for what cannot be read."""
    formats: tuple[str, ...]
    """The formats of `easi3r export` that are made for it; none: it reads the dataset itself."""
    by: Literal["rule", "loader"] = "rule"
    """Whether the rules are ours, or the program's own loader was run."""


def passed(what: str) -> RuleResult:
    """A rule that holds."""
    return RuleResult("pass", what)


def note(what: str, remedy: str = "") -> RuleResult:
    """Something to know."""
    return RuleResult("note", what, remedy)


def failed(what: str, remedy: str) -> RuleResult:
    """A rule that does not hold."""
    return RuleResult("fail", what, remedy)


def export_remedy(name: str) -> str:
    """The command that makes a folder in which it holds."""
    return f"easi3r export DATASET --format {name}"


def some(names: list[str]) -> str:
    """The first of several names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
