"""Writes options.md beside this file: every option of every command, from the classes that define them.

python examples/guide/make_options.py            (write)
python examples/guide/make_options.py --check    (write nothing; exit with 1 when the page is out of date)
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from easi3r_ns.cli.main import Commands
from easi3r_ns.training.config import TrainConfig
from easi3r_ns.training.measure.run import MeasureConfig

PAGE = Path(__file__).with_name("options.md")
PROGRAMS = {"python -m easi3r_ns.training": TrainConfig, "python -m easi3r_ns.training.measure": MeasureConfig}
"""Commands of their own, beside those of `easi3r`."""
INTRODUCTION = """# Options

Every option of every command, as `--help` shows it. Written by `python examples/guide/make_options.py` from the classes
that define the options: change those, never this page. What people change most stands in [running.md](running.md).

`ns-process-data easi3r` takes the options of [`easi3r run`](#easi3r-run). Names in capitals are values that you give.
An empty default means "not set"; the text says what happens then. A word in brackets may be repeated. "on" and "off"
tell whether the described behaviour is the default. The options of a group (a class) are those of every command that
names the group.
"""
WORDS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


@dataclass(frozen=True)
class Option:
    """One row of a table."""

    flags: str
    values: str
    default: str
    text: str


@dataclass(frozen=True)
class Group:
    """Options that several commands share: a config class, and how the command line spells its flags."""

    cls: type
    prefix: str
    one_flag: bool
    """A switch has the one flag that changes its default, not a flag for on and one for off."""


def commands(union: Any, program: str) -> Iterator[tuple[str, type]]:
    """(text of the command, its class), depth first through the unions of subcommands."""
    for member in get_args(union):
        cls, *marks = get_args(member)
        name = next(mark.name for mark in marks if hasattr(mark, "prefix_name"))
        inner = get_type_hints(cls, include_extras=True).get("action")
        if inner is None:
            yield f"{program} {name}", cls
        else:
            yield from commands(get_args(inner)[0], f"{program} {name}")


def options_of(cls: type, prefix: str = "", one_flag: bool = False) -> tuple[list[Option], list[Group]]:
    """The options that a class defines itself, and the groups that it takes in."""
    own, groups, texts = [], [], field_texts(cls)
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        hint, marks = _unwrapped(hints[field.name])
        single = one_flag or tyro.conf.FlagCreatePairsOff in marks
        if is_dataclass(hint):
            inner = "" if tyro.conf.OmitArgPrefixes in marks else f"{prefix}{_dashed(field.name)}."
            groups.append(Group(hint, inner, single))
        else:
            default = field.default if field.default is not MISSING else _made(field)
            positional = tyro.conf.Positional in marks
            flags = field.name.upper() if positional else _flags(prefix, field.name, hint, default, single)
            values = "" if hint is bool else _values(hint)
            # A text that is made of a table stands in the annotation, not after the field.
            made = [mark.help for mark in marks if getattr(mark, "help", None)]
            own.append(Option(flags, values, _default(default, hint), made[0] if made else texts[field.name]))
    return own, groups


def field_texts(cls: type) -> dict[str, str]:
    """The help text of each field: the string that follows it in the source of the class, or of a class it extends."""
    texts = {}
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for statement, after in zip(body, body[1:]):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
                texts[statement.target.id] = " ".join(inspect.cleandoc(after.value.value).split())
    return texts


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


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (get_args(hint)[0], hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _made(field: Field) -> Any:
    return MISSING if field.default_factory is MISSING else field.default_factory()


def _flags(prefix: str, name: str, hint: Any, default: Any, single: bool) -> str:
    on, off = (f"`--{prefix}{start}{_dashed(name)}`" for start in ("", "no-"))
    if hint is not bool:
        return on
    if not single:
        return f"{on}, {off}"
    return off if default else on


def _values(hint: Any) -> str:
    """What may follow the flag."""
    hint, _ = _unwrapped(hint)
    inner = [arg for arg in get_args(hint) if arg is not type(None) and arg is not Ellipsis]
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if get_origin(hint) is tuple:
        return f"[{_values(inner[0])}]"
    if get_origin(hint) in (Union, types.UnionType):
        return _values(inner[0])
    return WORDS[hint]


def _default(value: Any, hint: Any) -> str:
    if value is MISSING:
        return "required"
    if value is None or value == ():
        return ""
    if hint is bool:
        return "on" if value else "off"
    if isinstance(value, Path):
        value = value.as_posix()
    return f"`{' '.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"


def _table(options: Iterable[Option]) -> list[str]:
    rows = [f"| {o.flags} | {o.values} | {o.default} | {_escaped(o.text)} |" for o in options]
    return ["| option | value | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"] if rows else []


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


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
