"""Bounds of numeric options: every number that a user can give has a least and a largest value."""

from __future__ import annotations

import math

from .errors import InputError

LARGEST_COUNT = 10**9
"""Largest count of points, triangles or pixels that an option takes: beyond what any machine holds."""
LONGEST = 1e9
"""Largest time in seconds, or number of a frame, that an option takes."""
_DIGITS = 20
"""Digits of a whole number that a message shows as they are."""


def check_bounds(
    flag: str,
    value: float | None,
    low: float,
    high: float = LARGEST_COUNT,
    *,
    open_low: bool = False,
    also: float | None = None,
) -> None:
    """Raises InputError, with the flag and the value, unless ``value`` is None or a finite number in the range.

    Args:
        low, high: both are allowed, ``low`` only without ``open_low``.
        also: a single value outside the range that is allowed too, such as 0 for 'all'.
    """
    if value is None or value == also:
        return
    # Whole numbers of any length are compared exactly; math.isfinite would turn them into floats, which overflow.
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{flag} {value:g}: give a number {_least(low, open_low)} and at most {high:.10g}")
    if value < low or (open_low and value == low):
        instead = "" if also is None else f"{also:g} or "
        raise InputError(f"{flag} {shown_number(value)}: give {instead}a number {_least(low, open_low)}")
    if value > high:
        raise InputError(f"{flag} {shown_number(value)}: give a number of at most {high:.10g}")


def shown_number(value: float) -> str:
    """A number for a message: floats with six digits, long whole numbers by their beginning and their length."""
    if isinstance(value, float):
        return f"{value:g}"
    digits = str(value)
    return digits if len(digits) <= _DIGITS else f"{digits[:_DIGITS]}... ({len(digits.lstrip('-'))} digits)"


def _least(low: float, open_low: bool) -> str:
    return f"{'above' if open_low else 'at least'} {low:g}"
