"""`easi3r export`: a reconstructed scene for other programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Optional

import tyro
from rich.console import Console
from rich.markup import escape

from ..core.config import ExportConfig, MeshConfig
from ..core.errors import InputError
from ..export import EXPORT_FORMATS, EXPORTERS
from .options import OutputFolder

DEFAULT_FOLDER = "export"

_FORMATS_HELP = f"Any of {', '.join(EXPORT_FORMATS)}, with spaces or commas between; or all. " + " ".join(
    f"{entry.name}: {entry.summary}." for entry in EXPORTERS
)


@dataclass(frozen=True)
class Export:
    """Write a scene for other programs: meshes, clouds, cameras; all in the world of transforms.json."""

    path: tyro.conf.Positional[Path]
    """The --output-dir of a run, its transforms.json, or a scene folder."""
    format: Annotated[tuple[str, ...], tyro.conf.arg(help=_FORMATS_HELP)] = ("mesh", "cloud", "glb")
    output_dir: Optional[OutputFolder] = None
    """Folder for the files; default: the folder `export` in the dataset."""
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[ExportConfig]] = field(default_factory=ExportConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace what an earlier export of the same formats left; other files stay."""

    def main(self) -> None:
        """Write the files and say where they are.

        Raises:
            InputError: no scene at ``path``, an unknown format, or one that needs what the scene does not have.
            OutputError: files are in the way, or the disk refuses.
        """
        from ..dataset.scene_folder import dataset_folder, find_scene
        from ..export.formats import export_scene
        from .display import RichRunLog

        formats = chosen(self.format)
        scene = find_scene(self.path)
        output_dir = self.output_dir or dataset_folder(self.path) / DEFAULT_FOLDER
        done = export_scene(
            scene, output_dir, formats, self.config, RichRunLog(), mesh=self.mesh, overwrite=self.overwrite
        )
        console = Console(highlight=False)
        for name, files in done.items():
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            shown = ", ".join(str(output_dir / file) for file in files[:3]) or "nothing: nothing moves"
            console.print(f"[bold]{name:<12}[/] {escape(shown + more)}", soft_wrap=True)


def chosen(words: tuple[str, ...]) -> tuple[str, ...]:
    """The formats of --format: words with commas between or not, 'all' for all. Raises InputError."""
    names = tuple(name for word in words for name in word.split(",") if name)
    names = EXPORT_FORMATS if names == ("all",) else names
    unknown = [name for name in names if name not in EXPORT_FORMATS]
    if unknown or not names:
        raise InputError(f"--format {' '.join(unknown) or '(none)'}: choose from {', '.join(EXPORT_FORMATS)}, or all")
    return names
