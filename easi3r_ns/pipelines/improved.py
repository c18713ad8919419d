"""`easi3r improve`: masks, depth and, where asked for, better cameras on top of what another program left."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..network.models import MODELS
from ..storage.files import jsonable, natural_key
from ..storage.fingerprint import files_of, fingerprint
from .finished import RECORD, made_by
from .imported import FOUND_BY, ImportConfig, import_dataset
from .run import WORKSPACE, ProcessResult

_PATHS = ("masks", "depth_prior", "refine_masks", "names_model")
"""Options of what is found that may name files; their content decides, not their place."""


def improve_dataset(
    folder: Path, output_dir: Path, config: ImportConfig, *, overwrite: bool, log: RunLog
) -> ProcessResult | None:
    """Turn what another program left in ``folder`` into a dataset that is better where it can be.

    Finished stages are kept until the dataset is complete, so that the same command goes on after an interruption.

    Returns:
        None where ``output_dir`` holds the result of this very command already.

    Raises:
        Easi3RError: as :func:`~.imported.import_dataset`.
    """
    assert config.improve is not None, "it is what this is for"
    _refuse_nested(folder, output_dir)
    record = _record(folder, config)
    if not overwrite and made_by(record, output_dir, output_dir / WORKSPACE, log):
        return None
    return import_dataset(folder, output_dir, config, overwrite=overwrite, log=log, facts={RECORD: record})


def _record(folder: Path, config: ImportConfig) -> dict[str, Any]:
    """What decides the result, as JSON: version, options, and fingerprints of the inputs; no paths."""
    found = {name: getattr(config.found, name) for name in FOUND_BY}
    given = {"images": config.reading.images} | {name: found[name] for name in _PATHS}
    inputs: dict[str, str] = {}
    try:
        inputs["folder"] = fingerprint(_all_files(folder))
        for name, value in given.items():
            if value is not None and value not in MODELS and Path(value).exists():
                inputs[name] = fingerprint(files_of(Path(value)))
    except OSError as error:
        raise InputError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    options = {
        "import": asdict(replace(config.reading, images=None)),
        "easi3r": {name: "" if name in inputs else value for name, value in found.items()},
        "improve": asdict(config.improve) if config.improve else None,
        "dataset": asdict(config.dataset),
    }
    record: dict[str, Any] = json.loads(
        json.dumps(jsonable({"version": __version__, "options": options, "inputs": inputs}))
    )
    return record


def _all_files(folder: Path) -> list[Path]:
    """The regular files of a folder and of those below it, or the file itself; none where there is none."""
    if not folder.is_dir():
        return [folder] if folder.is_file() else []
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: natural_key(str(path)))


def _refuse_nested(folder: Path, output_dir: Path) -> None:
    """Raises InputError where the dataset would become a part of what is read."""
    if folder.is_dir() and output_dir.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"--output-dir {output_dir} lies in {folder}, which is read: choose a folder outside of it")
