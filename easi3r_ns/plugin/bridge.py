"""Adds the commands of the entry-point group ``nerfstudio.processors`` to ``ns-process-data``.

nerfstudio 1.1.5 keeps its commands in a hard-coded Union, ``nerfstudio.scripts.process_data.Commands``, which its
``entrypoint()`` reads when it is called. ``easi3r_ns.pth`` puts a finder on ``sys.meta_path`` that asks
:func:`find_spec` for that one module; the module is loaded as always and its Union is extended before anyone reads it.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Iterable, Sequence
from functools import wraps
from importlib.abc import Loader
from importlib.metadata import EntryPoint, entry_points
from types import CodeType, ModuleType
from typing import Any

TARGET = "nerfstudio.scripts.process_data"
GROUP = "nerfstudio.processors"
SWITCH_OFF = "EASI3R_NS_NO_BRIDGE"


def find_spec(name: str, path: Sequence[str] | None = None) -> importlib.machinery.ModuleSpec | None:
    """The spec of ``nerfstudio.scripts.process_data`` with a loader that extends it; None leaves it to other finders.

    Asks the path finder only, so that two installed bridges cannot call each other endlessly.
    """
    if name != TARGET or os.environ.get(SWITCH_OFF, "0") not in ("", "0"):
        return None
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is not None and spec.loader is not None:
        spec.loader = _ExtendingLoader(spec.loader)
    return spec


class _ExtendingLoader(Loader):
    """Loads the module with its own loader, then extends its Union."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        extend(module, entry_points(group=GROUP))

    def get_code(self, name: str) -> CodeType:
        # Only `python -m` calls this; it would run the module's last lines before the Union is extended.
        return compile(f"from {TARGET} import entrypoint\nentrypoint()\n", self._loader.get_filename(name), "exec")


def extend(module: ModuleType, candidates: Iterable[EntryPoint]) -> None:
    """Add the candidates whose names ``module.Commands`` does not list yet, keeping it one flat Union.

    A processor with a callable ``command_line(arguments, program)`` is given the arguments that follow its name, to
    parse them itself; nerfstudio parses those of all others. A failure is reported in one line on stderr and raises
    nothing: the program that imports the module may not use the new commands.
    """
    from typing import Annotated, Union, get_args

    import tyro

    try:
        members = list(get_args(module.Commands))
        known = {_command_name(member) for member in members}
    except Exception as error:
        _report(f"{TARGET}.Commands is not what was expected ({error}); no command was added")
        return
    own: dict[str, Any] = {}
    for candidate in sorted(candidates, key=lambda entry: entry.name):
        if candidate.name in known:
            continue
        try:
            processor = candidate.load()
            if not callable(getattr(processor, "main", None)):
                raise TypeError(f"{candidate.value} has no main()")
            members.append(Annotated[processor, tyro.conf.subcommand(name=candidate.name)])
        except (Exception, SystemExit) as error:
            reason = str(error).splitlines()[0] if str(error) else "no message"
            _report(f"ns-process-data {candidate.name} is not available: {type(error).__name__}: {reason}")
            continue
        known.add(candidate.name)
        if callable(parser := getattr(processor, "command_line", None)):
            own[candidate.name] = parser
    setattr(module, "Commands", Union[tuple(members)])
    _hand_over(module, own)


def _hand_over(module: ModuleType, own: dict[str, Any]) -> None:
    """Let ``entrypoint()`` of the module hand the arguments of some commands to functions of their own."""
    original = getattr(module, "entrypoint", None)
    if not own or original is None:
        return

    @wraps(original)
    def entrypoint() -> Any:
        name = sys.argv[1] if len(sys.argv) > 1 else ""
        if name not in own:
            return original()
        return own[name](sys.argv[2:], f"{os.path.basename(sys.argv[0])} {name}")

    setattr(module, "entrypoint", entrypoint)


def _command_name(member: Any) -> str | None:
    metadata = getattr(member, "__metadata__", ())
    return next((item.name for item in metadata if isinstance(getattr(item, "name", None), str)), None)


def _report(message: str) -> None:
    sys.stderr.write(f"easi3r-ns: {message}\n")
