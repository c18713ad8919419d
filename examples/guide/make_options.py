"""Writes options.md beside this file: every option of every command, from the classes that define them.

python examples/guide/make_options.py            (write)
python examples/guide/make_options.py --check    (write nothing; exit with 1 when the page is out of date)
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from easi3r_ns.cli.fields import Option, commands, options_of
from easi3r_ns.cli.main import Commands
from easi3r_ns.training.config import TrainConfig
from easi3r_ns.training.measure.run import MeasureConfig

PAGE = Path(__file__).with_name("options.md")
PROGRAMS = {"python -m easi3r_ns.training": TrainConfig, "python -m easi3r_ns.training.measure": MeasureConfig}
"""Commands of their own, beside those of `easi3r`."""
INTRODUCTION = """# Options

Every option of every command, as `--help-all` shows it. Written by `python examples/guide/make_options.py` from the
classes that define the options: change those, never this page. What people change most stands in
[running.md](running.md), and `--help` shows it.

`ns-process-data easi3r` takes the options of [`easi3r run`](#easi3r-run). Names in capitals are values that you give.
An empty default means "not set"; the text says what happens then. A word in brackets may be repeated. "on" and "off"
tell whether the described behaviour is the default. The options of a group (a class) are those of every command that
names the group.
"""


def page() -> str:
    """The whole page."""
    parts, groups = [INTRODUCTION], {}
    for title, cls in [*commands(Commands, "easi3r"), *PROGRAMS.items()]:
        own, shared = options_of(cls)
        groups |= dict.fromkeys(shared)
        links = ", ".join(f"[{group.cls.__name__}](#{group.cls.__name__.lower()})" for group in shared)
        also = [f"And the options of {links}.\n"] if shared else []
        parts += [f"## {title}\n", f"{inspect.cleandoc(cls.__doc__)}\n", *_table(own), *also]
    parts.append("## Groups of options\n")
    for group in groups:
        own, _ = options_of(group.cls, group.prefix, group.one_flag)
        parts += [f"### {group.cls.__name__}\n", f"{inspect.cleandoc(group.cls.__doc__)}\n", *_table(own)]
    return "\n".join(parts).rstrip() + "\n"


def _cell(values: str) -> str:
    """Values that can be typed as they are become code; capitals stand for a value, brackets for several."""
    if re.fullmatch(r"[\[\]A-Z ]*", values):
        return values
    if values.startswith("["):
        return f"[{_cell(values[1:-1])}]"
    return f"`{values.replace(', ', '`, `')}`"


def _default(default: str) -> str:
    return default if default in ("", "required", "on", "off") else f"`{default}`"


def _table(options: Iterable[Option]) -> list[str]:
    rows = [f"| {_named(o)} | {_cell(o.values)} | {_default(o.default)} | {_escaped(o.text)} |" for o in options]
    return ["| option | value | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"] if rows else []


def _named(option: Option) -> str:
    return ", ".join(f"`{flag}`" if flag.startswith("--") else flag for flag in option.flags)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Write the page, or with --check compare it."""
    arguments = sys.argv[1:]
    if arguments not in ([], ["--check"]):
        sys.exit(f"{' '.join(arguments)}: the only option is --check")
    current = page()
    if not arguments:
        PAGE.write_text(current, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != current:
        sys.exit(f"{PAGE.name} is out of date: run python examples/guide/make_options.py")


if __name__ == "__main__":
    main()
