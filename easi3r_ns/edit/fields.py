"""Reading the JSON of a change: every value is checked before anything is done with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..core.errors import InputError, shown
from .marks import VALUES, Place

MOST_PLACES = 4000
"""Of a stroke."""
MOST_RADIUS = 500.0
"""Network pixels."""
FARTHEST = 1e5
"""Network pixels: a place outside of the picture is where a stroke left it."""

Body = Mapping[str, Any]


def body_of(content: bytes) -> Body:
    """The object in a request. Raises InputError for anything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError("the change is no JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"the change is {shown(value)}, no object")
    return value


def whole(body: Body, name: str, low: int, high: int) -> int:
    """A whole number from low to high - 1. Raises InputError."""
    value = body.get(name)
    if type(value) is not int or not low <= value < high:
        raise InputError(f"{name} = {shown(value)}: a whole number from {low} to {high - 1}")
    return value


def value_of(body: Body) -> int:
    """The grey level that pixels get. Raises InputError."""
    value = body.get("value")
    if not isinstance(value, str) or value not in VALUES:
        raise InputError(f"value = {shown(value)}: one of {', '.join(VALUES)}")
    return VALUES[value]


def switch(body: Body, name: str) -> bool:
    """True or false. Raises InputError."""
    value = body.get(name)
    if not isinstance(value, bool):
        raise InputError(f"{name} = {shown(value)}: true or false")
    return value


def radius_of(body: Body) -> float:
    """Of a brush. Raises InputError."""
    radius = _number(body.get("radius"))
    if not 0 < radius <= MOST_RADIUS:
        raise InputError(f"radius = {shown(body.get('radius'))}: more than 0, at most {MOST_RADIUS:g}")
    return radius


def places_of(body: Body, low: int, high: int = MOST_PLACES) -> list[Place]:
    """From ``low`` to ``high`` places (x, y). Raises InputError."""
    given = body.get("places")
    if not isinstance(given, list) or not low <= len(given) <= high:
        raise InputError(f"places = {shown(given)}: a list of {low} to {high} places")
    places = []
    for place in given:
        if not isinstance(place, list) or len(place) != 2:
            raise InputError(f"a place is {shown(place)}: two numbers")
        x, y = (_number(value) for value in place)
        if not abs(x) <= FARTHEST or not abs(y) <= FARTHEST:
            raise InputError(f"a place is {shown(place)}: at most {FARTHEST:g} from the picture")
        places.append((x, y))
    return places


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InputError(f"{shown(value)} is no number")
    return float(value)
