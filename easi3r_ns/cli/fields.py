"""The options of the commands, read from the classes that define them: for the help texts and the page of options."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

WORDS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    """Name of the field."""
    flags: tuple[str, ...]
    """How it is written; for an argument without a flag, its name in capitals."""
    values: str
    """What may follow, such as ``INT`` or ``auto, none``; empty for a switch."""
    default: str
    """``required``, or the default as it would be typed, ``on`` or ``off`` for a switch; empty: not set."""
    text: str

    @property
    def switches_off(self) -> bool:
        """Whether the only flag takes away what the text describes."""
        return self.default == "on" and len(self.flags) == 1


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
        inner = inner_commands(cls)
        if inner is None:
            yield f"{program} {name}", cls
        else:
            yield from commands(inner, f"{program} {name}")


def inner_commands(cls: type) -> Any:
    """The union of the subcommands of a command; None for one that has none."""
    inner = get_type_hints(cls, include_extras=True).get("action")
    return None if inner is None else get_args(inner)[0]


def options_of(cls: type, prefix: str = "", one_flag: bool = False) -> tuple[list[Option], list[Group]]:
    """The options that a class defines itself, and the groups that it takes in."""
    own, groups, texts = [], [], field_texts(cls)
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        hint, marks = _unwrapped(hints[field.name])
        single = one_flag or tyro.conf.FlagCreatePairsOff in marks
        if isinstance(hint, type) and is_dataclass(hint):
            inner = "" if tyro.conf.OmitArgPrefixes in marks else f"{prefix}{_dashed(field.name)}."
            groups.append(Group(hint, inner, single))
        else:
            default = field.default if field.default is not MISSING else _made(field)
            positional = tyro.conf.Positional in marks
            # A word of Python, such as `for`, is no name of a field: the annotation then has the one of the flag.
            name = next((mark.name for mark in marks if getattr(mark, "name", None)), field.name)
            flags = (field.name.upper(),) if positional else _flags(prefix, name, hint, default, single)
            values = "" if hint is bool else _values(hint)
            # A text that is made of a table stands in the annotation, not after the field.
            made = [mark.help for mark in marks if getattr(mark, "help", None)]
            text = made[0] if made else texts[field.name]
            own.append(Option(field.name, flags, values, _default(default, hint), text))
    return own, groups


def field_texts(cls: type) -> dict[str, str]:
    """The help text of each field: the string that follows it in the source of the class, or of a class it extends."""
    texts = {}
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in zip(definition.body, definition.body[1:]):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                texts[field.target.id] = " ".join(inspect.cleandoc(str(after.value.value)).split())
    return texts


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (get_args(hint)[0], hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _made(field: Field) -> Any:
    return MISSING if field.default_factory is MISSING else field.default_factory()


def _flags(prefix: str, name: str, hint: Any, default: Any, single: bool) -> tuple[str, ...]:
    on, off = (f"--{prefix}{start}{_dashed(name)}" for start in ("", "no-"))
    if hint is not bool:
        return (on,)
    if not single:
        return on, off
    return (off,) if default else (on,)


def _values(hint: Any) -> str:
    """What may follow the flag."""
    hint, _ = _unwrapped(hint)
    inner = [arg for arg in get_args(hint) if arg is not type(None) and arg is not Ellipsis]
    if get_origin(hint) is Literal:
        return ", ".join(str(value) for value in inner)
    if get_origin(hint) is tuple:
        if Ellipsis in get_args(hint):
            return f"[{_values(inner[0])}]"
        return " ".join(_values(part) for part in inner)
    if get_origin(hint) in (Union, types.UnionType):
        return _values(inner[0])
    return WORDS.get(hint, "VALUE")


def _default(value: Any, hint: Any) -> str:
    if value is MISSING:
        return "required"
    if value is None or value == ():
        return ""
    if hint is bool:
        return "on" if value else "off"
    if isinstance(value, Path):
        value = value.as_posix()
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
