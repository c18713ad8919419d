"""The kinds of content that sections of the report are made of; ``macros.html.jinja`` has a macro for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """An image with a caption below."""

    uri: str
    """The image as a data URI: the page loads nothing."""
    alt: str
    """What the image shows, for those who cannot see it."""
    caption: str = ""
    pixelated: bool = False
    """Whether a small image is enlarged without smoothing, so that its pixels stay visible."""


@dataclass(frozen=True)
class Chart:
    """A drawing with its title above and an explanation below."""

    title: str
    drawing: str
    """An SVG element made by ``figures.py``. The only text that reaches the page as it is, without escaping."""
    note: str = ""
    tall: bool = False
    """Whether the chart is as high as two others."""


@dataclass(frozen=True)
class ColorRamp:
    """The legend of a colour map: its two ends in words and the colours between them."""

    uri: str
    low: str
    high: str


@dataclass(frozen=True)
class Tile:
    """A key figure at the top of the report."""

    name: str
    value: str
    remark: str


@dataclass(frozen=True)
class Fact:
    """A line of a list of names and values."""

    name: str
    value: str
