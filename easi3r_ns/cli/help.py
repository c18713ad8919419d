"""Help texts: ``--help`` shows what people change, ``--help-all`` everything."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from .fields import Group, Option, commands, inner_commands, options_of

SHORT, ALL = ("-h", "--help"), ("--help-all",)
BASIC = frozenset(
    "data output_dir root eval_data overwrite verbose num_frames_target start end crop_factor weights masks "
    "no_masks focal_length device refine camera_model format max_points undistort".split()
)
"""Names of the options that ``--help`` shows of commands with so many that they come in groups."""
RARE = frozenset({"more_data"})
"""Names of options outside of groups that only ``--help-all`` shows: there is an easier way to say the same."""
_FLAGS = 26
"""Columns of the flags; the texts begin after them."""
_WIDEST = 100
"""Columns beyond which lines are hard to read."""


def help_text(union: Any, arguments: Sequence[str], program: str) -> str | None:
    """What to print for arguments that ask for help; None where they do not.

    Args:
        union: the commands, as tyro takes them, or the class of a single command.
        arguments: those of the command line, without the program's name.
        program: its name.
    """
    flags = [word for word in arguments if word in (*SHORT, *ALL)]
    if not flags:
        return None
    return page(*_found(union, arguments, program), everything=any(flag in ALL for flag in flags))


def page(command: Any, program: str, *, everything: bool) -> str:
    """The help text of a command (its class) or of a group of commands (a Union)."""
    width = max(40, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns - 1))
    lines = _of_commands(command, program, width) if get_args(command) else _of_one(command, program, everything, width)
    return "\n".join(lines) + "\n"


def _found(union: Any, arguments: Sequence[str], program: str) -> tuple[Any, str]:
    """The command that the first words name, as far as they name one, and how it is called."""
    for word in arguments:
        members = {mark.name: cls for cls, mark in map(get_args, get_args(union))} if get_args(union) else {}
        if word not in members:
            break
        program = f"{program} {word}"
        union = inner_commands(members[word]) or members[word]
    return union, program


def _of_commands(union: Any, program: str, width: int) -> Iterator[str]:
    yield f"usage: {program} COMMAND ..."
    if program == "easi3r":
        yield ""
        yield from textwrap.wrap(
            "Make a nerfstudio dataset from a casual video of a scene in which people or things move.", width
        )
    yield ""
    for name, cls in commands(union, ""):
        yield from _entry(name.strip(), _first_sentence(inspect.cleandoc(cls.__doc__ or "")), width)
    yield ""
    yield f"{program} COMMAND --help explains one of them."
    if program == "easi3r":
        yield "easi3r --version prints the version. First time here? Try easi3r doctor."


def _of_one(cls: type, program: str, everything: bool, width: int) -> Iterator[str]:
    own, groups = options_of(cls)
    needed = [f"{' '.join(option.flags)} {option.values}" for option in own if option.default == "required"]
    arguments = [words if words.startswith("-") else words.split()[0] for words in needed]
    yield from textwrap.wrap(f"usage: {program} {' '.join(arguments)} [options]", width, subsequent_indent=" " * 7)
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(cls.__doc__ or ""))
    for paragraph in paragraphs if everything else paragraphs[:1]:
        yield ""
        yield from textwrap.wrap(" ".join(paragraph.split()), width)
    yield ""
    shown = [option for option in own if everything or option.name not in RARE]
    left_out = len(own) - len(shown)
    for group in groups:
        options = options_of(group.cls, group.prefix, group.one_flag)[0]
        picked = [] if everything else [option for option in options if not group.prefix and option.name in BASIC]
        shown += picked
        left_out += len(options) - len(picked)
    for option in shown:
        yield from _lines(option, everything, width)
    if everything:
        for group in groups:
            yield from _section(group, width)
    elif left_out:
        yield ""
        yield from textwrap.wrap(f"{program} --help-all shows {left_out} more options, and longer texts.", width)


def _section(group: Group, width: int) -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(" ".join(inspect.cleandoc(group.cls.__doc__ or "").split()), width)
    yield ""
    for option in options_of(group.cls, group.prefix, group.one_flag)[0]:
        yield from _lines(option, True, width)


def _lines(option: Option, everything: bool, width: int) -> Iterator[str]:
    values = option.values if option.flags[0].startswith("-") else ""
    flags = f"{', '.join(option.flags)} {values.replace(', ', '|')}".rstrip()
    text = option.text if everything else _first_sentence(option.text)
    if option.switches_off:
        text = f"Switch off: {text[0].lower()}{text[1:]}"
    if option.default == "required":
        text += " Required."
    elif option.default and (option.values or len(option.flags) > 1):
        text += f" Default: {option.default}."
    yield from _entry(flags, text, width)


def _entry(name: str, text: str, width: int) -> Iterator[str]:
    indent = " " * _FLAGS
    lines = textwrap.wrap(text, width - _FLAGS, break_long_words=False, break_on_hyphens=False)
    if len(name) + 3 <= _FLAGS:
        yield f"  {name}".ljust(_FLAGS) + (lines[0] if lines else "")
        lines = lines[1:]
    else:
        yield f"  {name}"
    yield from (indent + line for line in lines)


def _first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence; dots of an omission do not."""
    text = " ".join(text.split())
    match = re.search(r"(?<![.])(?<!e\.g)\.(?=\s|$)", text)
    return text[: match.end()] if match else text
