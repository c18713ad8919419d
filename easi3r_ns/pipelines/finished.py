"""Runs that are finished: the same command again finds them so, and cleans up after one that was killed at its end.

``transforms.json`` appears last, when the dataset is complete. It holds a record of what made the dataset: the options
and fingerprints of the inputs. A run that was killed after that, while it removed its intermediate files, has nothing
left to do.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.errors import InputError, OutputError
from ..core.runlog import RunLog
from ..dataset.nerfstudio import POINTS, TRANSFORMS, UNCHECKED
from ..frames import open_source
from ..network.models import MODELS
from ..network.sources import AUTO, KNOWN
from ..storage.corrections import read_corrections
from ..storage.files import jsonable
from ..storage.fingerprint import files_of, fingerprint
from ..storage.lock import only_writer
from ..storage.owned import discard_leftovers, owned_files
from .geometric import NAME as NONE
from .kept import KEPT
from .pipeline import RunConfig

RECORD = "run"
"""Name of the record in the dataset's provenance."""


def run_record(data: Path, config: RunConfig) -> dict[str, Any]:
    """What decides the result of a run, as JSON: version, options, and fingerprints of the inputs; no paths.

    Raises:
        InputError: the source cannot be used, an input cannot be read, or the clip is to be evaluated on itself.
    """
    weights, masks = config.easi3r.weights, config.easi3r.masks
    try:
        own_weights = weights not in (*KNOWN, AUTO, NONE) and Path(weights).exists()
        inputs = {
            "data": fingerprint(_source_files(data)),
            "eval_data": None if config.eval_data is None else fingerprint(_source_files(config.eval_data)),
            "masks": None if masks is None else _fingerprint_of_masks(masks),
            "weights": fingerprint(files_of(Path(weights))) if own_weights else None,
        }
        if (prior := config.easi3r.depth_prior) is not None and Path(prior).exists():
            inputs["depth_prior"] = fingerprint(files_of(Path(prior)))
        if (corrections := config.easi3r.corrections) is not None:
            inputs["corrections"] = read_corrections(corrections).fingerprint()
        for option in ("refine_masks", "names_model"):
            if (model := getattr(config.easi3r, option)) not in (NONE, *MODELS) and Path(model).exists():
                inputs[option] = fingerprint(files_of(Path(model)))
        if config.more_data:
            inputs["more_data"] = [fingerprint(_source_files(path)) for path in config.more_data]
    except OSError as error:
        raise InputError(f"{error.filename or data} cannot be read: {error.strerror or error}") from error
    if inputs["eval_data"] == inputs["data"]:
        raise InputError(
            f"--eval-data {config.eval_data} is the clip of --data: views that were trained on evaluate nothing. Give "
            "another clip of the scene, or leave it out: nerfstudio then holds frames back (ns-train ... --eval-mode "
            "interval)"
        )
    options = asdict(config) | {"eval_data": None, "more_data": None}
    options["easi3r"] |= {"masks": None, "corrections": None, "weights": "" if own_weights else weights}
    if "depth_prior" in inputs:
        options["easi3r"]["depth_prior"] = ""
    options["easi3r"] |= {option: "" for option in ("refine_masks", "names_model") if option in inputs}
    del options["keep_stages"]
    # Through JSON, as the record of an earlier run: tuples become lists.
    return json.loads(json.dumps(jsonable({"version": __version__, "options": options, "inputs": inputs})))


def is_finished(data: Path, output_dir: Path, config: RunConfig, workspace: Path, log: RunLog) -> bool:
    """Whether ``output_dir`` holds the complete dataset of this very run; then what the run left there is removed.

    Raises:
        OutputError: it does, but files of it are missing; or another run is writing there.
    """
    if RECORD not in _transforms(output_dir).get("easi3r", {}):
        return False
    try:
        record = run_record(data, config)
    except InputError:
        return False  # another input, or none: what is there was made from something else
    return made_by(record, output_dir, workspace, log)


def made_by(record: dict[str, Any], output_dir: Path, workspace: Path, log: RunLog) -> bool:
    """Whether ``output_dir`` holds the complete dataset of a record; then what the run left there is removed.

    Raises:
        OutputError: it does, but files of it are missing; or another run is writing there.
    """
    meta = _transforms(output_dir)
    if meta.get("easi3r", {}).get(RECORD) != record:
        return False
    if missing := _missing(output_dir, meta):
        raise OutputError(
            f"{output_dir} is finished, but {len(missing)} of its files are missing ({missing[0]}): make it again with "
            "--overwrite"
        )
    with only_writer(output_dir):
        discard_leftovers(output_dir)
        if not (workspace / KEPT).is_file():
            shutil.rmtree(workspace, ignore_errors=True)
    log.info(
        f"{output_dir} is finished already: the same clip and options made it, and all its files are there "
        "(--overwrite makes it again)"
    )
    return True


def _transforms(output_dir: Path) -> dict[str, Any]:
    """The content of ``transforms.json`` in a folder; empty where there is none of ours."""
    if TRANSFORMS not in owned_files(output_dir):
        return {}
    try:
        meta = json.loads((output_dir / TRANSFORMS).read_text(encoding="utf-8"))
        return meta if isinstance(meta["easi3r"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _missing(output_dir: Path, meta: dict[str, Any]) -> list[str]:
    """Files that a complete dataset has and this one lacks. Two of those that are ours need not be there."""
    wanted = owned_files(output_dir) - {UNCHECKED} - ({POINTS} if "ply_file_path" not in meta else set())
    return sorted(file for file in wanted if not (output_dir / file).is_file())


def _fingerprint_of_masks(masks: Path) -> Any:
    """Of a folder, a video or an archive; of the images of a pattern, or of a folder in an archive; else 'missing'."""
    if masks.exists():
        return fingerprint(files_of(masks))
    try:
        return fingerprint(_source_files(masks))
    except InputError:
        return "missing"


def _source_files(data: Path) -> list[Path]:
    """The files that a source is read from. Raises InputError for one that cannot be used."""
    source: Any = open_source(data)
    path = getattr(source, "path", None)
    return list(source.files) if path is None else [path]
