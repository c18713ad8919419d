"""Every figure of the front page stands in a file with the command that made it; pages of results name their state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "results"
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
PAGE = (RESULTS / "figures.md").read_text(encoding="utf-8")
NO_FIGURE = r"`[^`]*`|\]\([^)]*\)|https?://\S+|Python \d\.\d+|Apache-2\.0|SA 4\.0|arXiv:[\d.]+"
"""Numbers that were not measured: code, links, versions, licences, papers."""
FIGURE = r"\d+\.\d+(?: %)?|\d+ (?:%|GB)"


def rows(columns: int) -> list[list[str]]:
    """Rows of the tables of the page that have so many columns, without their heads."""
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line[:2] == "| "]
    return [cells for cells in found if len(cells) == columns and cells[0] not in ("the front page says", "page")]


def target_of(link: str) -> Path:
    return RESULTS / re.search(r"\]\(([^)#]+)", link)[1]


def figures_of(text: str) -> list[str]:
    return re.findall(FIGURE, re.sub(NO_FIGURE, " ", text))


@pytest.mark.parametrize("row", rows(4), ids=lambda row: row[0])
def test_a_figure_stands_where_its_row_says(row: list[str]) -> None:
    words, value, link, command = row
    assert words in README, "the front page no longer says this"
    assert value in " ".join(target_of(link).read_text(encoding="utf-8").split())
    script = re.search(r"`(?:python )?(examples/\S+\.(?:py|sh))", command)
    assert command.startswith("`") and (script is None or (ROOT / script[1]).is_file())


def test_every_measured_figure_of_the_front_page_has_a_row() -> None:
    known = [figure for words, *_ in rows(4) for figure in figures_of(words)]
    assert [figure for figure in figures_of(README) if figure not in known] == []
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures and set(pictures) == {words for words, *_ in rows(4) if words.endswith(".jpg")}
    assert figures_of("`x 0.5` is 0.7 % off, 3 GB, Python 3.10 ([a](b0.1))") == ["0.7 %", "3 GB"], "the search can fail"


def test_every_page_of_results_names_its_state() -> None:
    states = {target_of(link): code for link, code, _ in rows(3)}
    pages = {*RESULTS.glob("*.md"), RESULTS / "tiny" / "README.md"} - {RESULTS / "figures.md"}
    assert states.keys() == pages and all(re.fullmatch(r"[0-9a-f]{12}", code) for code in states.values())
