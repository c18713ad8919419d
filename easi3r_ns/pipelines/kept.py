"""What a finished run keeps, so that it can be made again with other options: its stages, source and options.

A stage is named by all that decides it (:mod:`..storage.cache`), so that making a dataset again computes only what the
changed options decide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from .. import __version__
from ..core.config import option_words
from ..core.errors import Easi3RError, InputError
from ..network.models import MODELS
from ..network.sources import AUTO, KNOWN
from ..storage.files import jsonable, write_json
from .pipeline import RunConfig

KEPT = "redo.json"
"""Name of the file, in the folder for intermediate results, that says how the run was started."""
GROUPS = {
    "frames": ("frames",),
    "what moves": (
        *("masks", "masks_polarity", "masks_missing", "no_masks"),
        *("flow", "graph", "weights", "no_adapt"),
        *("refine_masks", "remove", "keep", "names_model"),
    ),
    "masks": ("corrections", "mask_threshold"),
    "cameras": ("align", "refine", "focal_length", "window", "loop_closure", "seed"),
    "depth": ("depth", "stereo", "min_confidence", "depth_prior", "metric"),
    "second look": ("motion",),
    "dataset": ("dataset", "mask_scope"),
}
"""Steps of a run in their order, and the options, or groups of options, that decide them. Later steps depend on earlier
ones."""
_EVERY = ("device", "dtype", "tf32", "batch_size", "max_memory")
"""Options of where and how is computed. Results of other devices differ in their last digits and stay."""


@dataclass(frozen=True)
class KeptRun:
    """How a finished run was started."""

    data: Path
    config: RunConfig


def keep_run(workspace: Path, data: Path, config: RunConfig) -> None:
    """Write what :func:`kept_run` reads; paths become absolute.

    Raises:
        OutputError: the disk refuses.
    """
    config = with_whole_paths(config)
    facts = {"version": __version__, "data": str(data.absolute()), "options": asdict(config)}
    write_json(workspace / KEPT, jsonable(facts))


def kept_run(workspace: Path) -> KeptRun:
    """The source and the options of the finished run whose intermediate results lie in ``workspace``.

    Raises:
        InputError: nothing was kept there, another version kept it, or the file is damaged.
    """
    file = workspace / KEPT
    again = "give the whole command of the run again, with --overwrite"
    if not file.is_file():
        raise InputError(f"{workspace.parent} keeps no intermediate results of a finished run: {again}")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["version"] != __version__:
            raise InputError(f"{file} is of version {facts['version']} of easi3r-ns, this is {__version__}: {again}")
        config = _restored(RunConfig, facts["options"])
        return KeptRun(Path(facts["data"]), replace(config, keep_stages=True))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        if isinstance(error, Easi3RError):
            raise
        raise InputError(f"{file} is damaged ({error}): {again}") from error


def with_whole_paths(config: RunConfig) -> RunConfig:
    """The options with absolute paths, so that they mean the same wherever they are read."""
    own = config.easi3r
    moved = replace(
        own,
        masks=own.masks and own.masks.absolute(),
        corrections=own.corrections and own.corrections.absolute(),
        weights=_placed(own.weights),
        depth_prior=own.depth_prior and _placed(own.depth_prior),
        refine_masks=_placed(own.refine_masks),
        names_model=_placed(own.names_model),
    )
    eval_data, more_data = (
        config.eval_data and config.eval_data.absolute(),
        [path.absolute() for path in config.more_data],
    )
    return replace(config, eval_data=eval_data, more_data=tuple(more_data), easi3r=moved)


def config_of(options: Mapping[str, Any]) -> RunConfig:
    """The options of a run from what ``jsonable(asdict(config))`` made of them.

    Raises:
        TypeError, KeyError: they are not those of this version.
    """
    restored: RunConfig = _restored(RunConfig, options)
    return restored


def size_of(workspace: Path) -> int:
    """Bytes that deleting a folder of intermediate results would free; images that the dataset shares do not count."""
    stats = (file.stat() for file in workspace.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


def changes(before: RunConfig, after: RunConfig) -> list[str]:
    """The options of ``after`` that differ from ``before``, as on a command line."""
    old, new = asdict(before), asdict(after)
    words: list[str] = []
    for part in ("frames", "easi3r", "align", "dataset", "refine"):
        words += option_words(new[part], old[part], "align." if part == "align" else "")
    clips = [{name: facts[name] for name in ("eval_data", "more_data")} for facts in (new, old)]
    return words + option_words(clips[0], clips[1])


def made_again(before: RunConfig, after: RunConfig) -> list[str]:
    """The steps, names of :data:`GROUPS`, that the changed options decide, and those after them."""
    changed = _names(asdict(before), asdict(after))
    steps = list(GROUPS)
    first = min((steps.index(step) for step, names in GROUPS.items() if changed & set(names)), default=len(steps) - 1)
    return steps[first:]


def _names(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    changed = {part for part in ("frames", "align", "dataset", "refine") if before[part] != after[part]}
    if before["dataset"]["image_format"] != after["dataset"]["image_format"]:
        changed.add("frames")  # they are kept in this format, and read from it
    changed |= {name for name, value in after["easi3r"].items() if before["easi3r"][name] != value}
    others = before["eval_data"] != after["eval_data"] or before["more_data"] != after["more_data"]
    return (changed - set(_EVERY)) | ({"frames"} if others else set())


def _placed(model: str) -> str:
    """A file or folder with its whole path; the name of a model stays, whatever lies in the current folder."""
    named = model in (*KNOWN, *MODELS, AUTO, "none")
    return str(Path(model).absolute()) if Path(model).exists() and not named else model


def _restored(cls: type, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    return cls(**{f.name: _value(hints[f.name], values[f.name]) for f in fields(cls) if f.name in values})


def _value(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        return _restored(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is Union or type(None) in get_args(hint):
        inner = next(kind for kind in get_args(hint) if kind is not type(None))
        return None if value is None else _value(inner, value)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(_value(kind, item) for kind, item in zip(kinds, value, strict=True))
    if isinstance(hint, type) and not isinstance(value, hint if hint is not float else (int, float)):
        if hint is Path and isinstance(value, str):
            return Path(value)
        raise TypeError(f"{value!r} is no {hint.__name__}")
    return value
