"""The page that derives the alignment names functions that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("align", "align.solvers", "core")


def missing(text: str) -> list[str]:
    """Names ``module.attribute`` in backticks that do not exist; ``module.function`` itself is a placeholder."""
    modules = {
        path.stem: f"easi3r_ns.{folder}.{path.stem}"
        for folder in reversed(FOLDERS)
        for path in (ROOT / "easi3r_ns" / folder.replace(".", "/")).glob("[a-z]*.py")
    }
    found = []
    for name in sorted(set(re.findall(r"`([a-z_0-9]+(?:\.\w+)+)`", text)) - {"module.function"}):
        module, *attributes = name.split(".")
        value = importlib.import_module(modules[module]) if module in modules else None
        for attribute in attributes:
            value = getattr(value, attribute, None) or getattr(value, "__dataclass_fields__", {}).get(attribute)
        if value is None:
            found.append(name)
    return found


def test_every_name_on_the_page_exists():
    text = (ROOT / "examples" / "guide" / "alignment.md").read_text(encoding="utf-8")
    assert text.count("`normal.") > 5 and missing(text) == []


def test_a_name_that_is_gone_is_found():
    assert missing("`normal.linearise` `newton.gone` `nowhere.at_all`") == ["newton.gone", "nowhere.at_all"]
