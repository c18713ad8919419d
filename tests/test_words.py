"""The words of the package: cross references resolve, no two public classes share a name, no private metaphors."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "easi3r_ns"

REFERENCE = re.compile(r":(?:func|class|mod|data|meth|attr|exc):`([^`]*)`")
"""A cross reference of Sphinx; the target is absolute, or relative with a leading dot, or a name of the same module."""
METAPHORS = re.compile(r"\b(?:roads?|houses?|doors?|riddles?|stor(?:y|ies))\b", re.IGNORECASE)
"""Words that stood for something else than what they say; one that is needed literally may leave this list."""


class Module:
    """Names that a module defines, read from its syntax tree: nothing is imported."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if is_package else parts)
        self.text = path.read_text(encoding="utf-8") if text is None else text
        self.tree = ast.parse(self.text)
        self._package = self.name if is_package else self.name.rpartition(".")[0]
        self.classes: dict[str, ast.ClassDef] = {}
        self.names: set[str] = set()
        self.imported: dict[str, str] = {}
        """Local name -> absolute name of what it was imported from."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._add_import(node)
        for node in _statements(self.tree.body):
            self.names |= _defined(node)
            if isinstance(node, ast.ClassDef):
                self.classes[node.name] = node

    def _add_import(self, node: ast.Import | ast.ImportFrom) -> None:
        base = getattr(node, "module", None) or ""
        if isinstance(node, ast.ImportFrom) and node.level:
            above = self._package.split(".")[: len(self._package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:
            self.imported[alias.asname or alias.name] = f"{base}.{alias.name}" if base else alias.name


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those inside if, try and with included."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                yield from _statements(getattr(node, inner, []))


def _defined(node: ast.stmt) -> set[str]:
    """Names that a statement of a module or a class defines."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _members(cls: ast.ClassDef) -> set[str]:
    """Methods, fields, and attributes that methods set on self."""
    found = set().union(*(_defined(node) for node in _statements(cls.body)))
    for node in ast.walk(cls):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            found.add(node.attr)
    return found


@cache
def modules() -> dict[str, Module]:
    found = (Module(path) for path in sorted((ROOT / PACKAGE).rglob("*.py")))
    return {module.name: module for module in found}


def is_member(module: Module, name: str, rest: list[str]) -> bool:
    """Whether the class ``name`` of a module, or a class of the package that it inherits from, has ``rest``."""
    cls = module.classes[name]
    if len(rest) == 1 and rest[0] in _members(cls):
        return True
    bases = [ast.unparse(base).split("[")[0].split(".") for base in cls.bases]
    own = [base for base in bases if module.imported.get(base[0], PACKAGE).split(".")[0] == PACKAGE]
    return any(resolves(module, [*base, *rest]) for base in own)


def resolves(module: Module, parts: list[str]) -> bool:
    """Whether a dotted name exists in a module: a value, a class and its member, or what it imports."""
    if not parts:
        return True
    first, rest = parts[0], parts[1:]
    if first in module.classes:
        return not rest or is_member(module, first, rest)
    if first in module.names:
        return not rest
    if first in module.imported:
        target = [*module.imported[first].split("."), *rest]
        return target[0] != PACKAGE or exists(target)
    return False


def exists(parts: list[str]) -> bool:
    """Whether an absolute dotted name of the package exists."""
    for split in range(len(parts), 0, -1):
        module = modules().get(".".join(parts[:split]))
        if module is not None:
            return resolves(module, parts[split:])
    return False


def found_by_suffix(parts: list[str]) -> bool:
    """Whether some module's name ends with the first parts, and has the rest: how Sphinx reads ``.model.DUSt3R``."""
    for split in range(len(parts), 0, -1):
        ending = "." + ".".join(parts[:split])
        if any(name.endswith(ending) and resolves(module, parts[split:]) for name, module in modules().items()):
            return True
    return False


def refers(module: Module, target: str) -> bool:
    """Whether a reference in a module leads somewhere."""
    name = target.rpartition("<")[2].rstrip(">").lstrip("~!")
    parts = name.strip(".").split(".")
    if name.startswith("."):
        return found_by_suffix(parts)
    if parts[0] == PACKAGE:
        return exists(parts)
    return resolves(module, parts) or any(is_member(module, cls, parts) for cls in module.classes)


def broken_references(module: Module) -> set[str]:
    where = module.path.relative_to(ROOT).as_posix()
    return {f"{where} {match[0]}" for match in REFERENCE.finditer(module.text) if not refers(module, match[1])}


def prose(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the comments and docstrings of a module, those under attributes included."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def shared_names(found: list[Module]) -> dict[str, set[str]]:
    """Names of public top-level classes that several modules define, with these modules."""
    where = defaultdict(set)
    for module in found:
        for name in module.classes:
            if not name.startswith("_"):
                where[name].add(module.name)
    return {name: owners for name, owners in where.items() if len(owners) > 1}


def test_every_cross_reference_resolves() -> None:
    assert set().union(*map(broken_references, modules().values())) == set()


def test_no_two_public_classes_share_a_name() -> None:
    assert shared_names(list(modules().values())) == {}


def test_no_private_metaphors() -> None:
    found = [
        f"{module.path.relative_to(ROOT)}:{line} {METAPHORS.search(text)[0]}"
        for module in modules().values()
        for line, text in prose(module.text)
        if METAPHORS.search(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("~easi3r_ns.core.types.Frames", True),
        ("~easi3r_ns.core.types.Frames.followed_by", True),
        ("easi3r_ns.network.weights.resolve", True),
        ("the network <easi3r_ns.network.model.DUSt3R>", True),
        ("~.model.DUSt3R.start", True),
        ("~.lazy.LazyBackbone.encode_frames", True),
        ("MAPS", True),
        ("ScoreFormula.centred", True),
        ("centred", True),
        ("~easi3r_ns.core.types.Film", False),
        ("~easi3r_ns.core.types.Frames.followed", False),
        ("~easi3r_ns.gone.Frames", False),
        ("~.gone.DUSt3R.start", False),
        ("~.model.DUSt3R.finish", False),
        ("GONE", False),
        ("ScoreFormula.decentred", False),
    ],
)
def test_references_are_told_apart(target: str, expected: bool) -> None:
    assert refers(modules()["easi3r_ns.core.score"], target) is expected


def test_a_metaphor_and_a_shared_name_are_found() -> None:
    path = ROOT / PACKAGE / "core" / "score.py"
    text = '"""One road."""\nx = "a road"  # two roads\n\n\nclass Scene:\n    y = 1\n    """Broadly."""\n'
    assert [line for line, words in prose(text) if METAPHORS.search(words)] == [2, 1]
    assert shared_names([Module(path, text), modules()["easi3r_ns.core.scene"]]) == {
        "Scene": {"easi3r_ns.core.score", "easi3r_ns.core.scene"}
    }
