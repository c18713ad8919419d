"""One scene, several formats, one folder.

All geometry is in the world of the dataset's ``transforms.json`` (z up, the first camera near the origin).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.config import ExportConfig, MeshConfig
from ..core.errors import InputError, OutputError
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..storage.owned import claim, owned_files, settle
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
) -> dict[str, list[str]]:
    """Write ``scene`` into ``output_dir`` and return, by format, the files written, relative to it.

    The scene is only read; the same scene gives identical bytes (but for ``rerun``). What an earlier export wrote is
    replaced with ``overwrite`` and refused without; files that are not ours stay.

    Raises InputError for an unknown format or a scene that does not have what a format needs, OutputError when files
    are in the way or the disk refuses, MissingExtraError when a library is missing.
    """
    exporters = _chosen(formats)
    for name, exporter in exporters.items():
        try:
            exporter.needs(scene)
        except InputError as error:
            raise InputError(f"--format {name}: {error}") from error
        if owned_files(output_dir, _group(name)) and not overwrite:
            raise OutputError(
                f"{output_dir} already holds an export as {name}: choose another --output-dir, or replace it with "
                "--overwrite"
            )
    job, done = ExportJob(scene, output_dir, config, mesh), {}
    for name, exporter in exporters.items():
        with log.stage(f"export {name}"):
            claim(output_dir, exporter.files(job), group=_group(name))
            done[name] = sorted(path.relative_to(output_dir).as_posix() for path in exporter.write(job))
            settle(output_dir, done[name], group=_group(name))
        for remark in exporter.says(job):
            log.info(f"{name}: {remark}")
    return done


def _chosen(formats: Sequence[str]) -> dict[str, Exporter]:
    unknown = [name for name in formats if name not in EXPORT_FORMATS]
    if unknown or not formats:
        raise InputError(f"--format {' '.join(unknown)}: choose from {', '.join(EXPORT_FORMATS)}")
    entries = {entry.name: entry for entry in EXPORTERS}
    return {name: entries[name].load("EXPORTER") for name in formats}


def _group(name: str) -> str:
    return f"export {name}"
