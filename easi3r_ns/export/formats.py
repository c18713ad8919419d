"""One scene, several formats, one folder.

All geometry is in the world of the dataset's ``transforms.json`` (z up, the first camera near the origin).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.config import ExportConfig, MeshConfig
from ..core.errors import InputError, MissingExtraError, OutputError
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..storage.owned import claim, leave_if_empty, owned_files, settle
from . import EXPORT_FORMATS, EXPORTERS
from .exporter import Exporter, ExportJob


def export_scene(
    scene: Scene,
    output_dir: Path,
    formats: Sequence[str],
    config: ExportConfig,
    log: RunLog,
    *,
    mesh: MeshConfig = MeshConfig(),
    overwrite: bool = False,
    keep_going: bool = False,
) -> dict[str, list[str]]:
    """Write ``scene`` into ``output_dir`` and return, by format, the files written, relative to it.

    The scene is only read; the same scene gives identical bytes (but for ``rerun``). What an earlier export wrote is
    replaced with ``overwrite`` and refused without; files that are not ours stay. A format that fails leaves nothing
    behind. With ``keep_going`` formats that this scene or machine cannot give are left out with a warning; only when
    none is left is that an error.

    Raises InputError for an unknown format or a scene that does not have what a format needs, OutputError when files
    are in the way or the disk refuses, MissingExtraError when a library is missing.
    """
    exporters, left_out = _chosen(formats), {}
    for name, exporter in list(exporters.items()):
        try:
            _allowed(name, exporter, scene, output_dir, overwrite)
        except (InputError, MissingExtraError) as error:
            if not keep_going:
                raise
            left_out[name] = error
            del exporters[name]
    job, done = ExportJob(scene, output_dir, config, mesh), {}
    for name, exporter in exporters.items():
        try:
            with log.stage(f"export {name}"):
                done[name] = _export(name, exporter, job)
        except (InputError, MissingExtraError) as error:
            if not keep_going:
                raise
            left_out[name] = error
            continue
        for remark in exporter.says(job):
            log.info(f"{name}: {remark}")
    if not done:
        raise next(iter(left_out.values()))
    if scene.turned is not None:
        log.info(
            f"{int(scene.turned.sum())} of {len(scene)} pictures lie on their side in exports, and their cameras with "
            "them: all have one size, as readers want it"
        )
    for name, reason in left_out.items():
        log.warn(f"{name} is not written: {str(reason).removeprefix(f'--format {name}: ')}")
    return done


def _allowed(name: str, exporter: Exporter, scene: Scene, output_dir: Path, overwrite: bool) -> None:
    try:
        exporter.needs(scene)
    except InputError as error:
        raise InputError(f"--format {name}: {error}") from error
    if owned_files(output_dir, _group(name)) and not overwrite:
        raise OutputError(
            f"{output_dir} already holds an export as {name}: choose another --output-dir, or replace it with "
            "--overwrite"
        )


def _export(name: str, exporter: Exporter, job: ExportJob) -> list[str]:
    """Write one format and return its files. What it wrote is taken back when it finds that it cannot."""
    folder, group = job.folder, _group(name)
    before = {file for file in owned_files(folder, group) if (folder / file).exists()}
    claim(folder, exporter.files(job), group=group)
    try:
        written = sorted(path.relative_to(folder).as_posix() for path in exporter.write(job))
    except (InputError, MissingExtraError):
        settle(folder, before, group=group)
        leave_if_empty(folder)
        raise
    settle(folder, written, group=group)
    return written


def _chosen(formats: Sequence[str]) -> dict[str, Exporter]:
    unknown = [name for name in formats if name not in EXPORT_FORMATS]
    if unknown or not formats:
        raise InputError(f"--format {' '.join(unknown)}: choose from {', '.join(EXPORT_FORMATS)}")
    entries = {entry.name: entry for entry in EXPORTERS}
    return {name: entries[name].load("EXPORTER") for name in formats}


def _group(name: str) -> str:
    return f"export {name}"
