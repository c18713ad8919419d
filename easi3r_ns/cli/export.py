"""`easi3r export`: a reconstructed scene for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Optional

import tyro
from rich.console import Console
from rich.markup import escape

from ..check import CONSUMER_NAMES
from ..core.config import ExportConfig, MeshConfig
from ..core.errors import InputError
from ..export import EXPORT_FORMATS, EXPORTERS
from .check import chosen_consumers, show_verdict
from .options import OutputFolder

DEFAULT_FOLDER = "export"

DEFAULT_FORMATS = ("mesh", "cloud", "glb")

_FORMATS_HELP = (
    f"Any of {', '.join(EXPORT_FORMATS)}, with spaces or commas between; or all. Default: what --for needs, else "
    f"{', '.join(DEFAULT_FORMATS)}. Of the default and of all, what the scene cannot give is left out. "
    + " ".join(f"{entry.name}: {entry.summary}." for entry in EXPORTERS)
)
_FOR_HELP = (
    f"Programs that shall read it, any of {', '.join(name for name in CONSUMER_NAMES if name != 'nerfstudio')}: "
    "chooses the format and the names of masks, and checks the result as `easi3r check` does. nerfstudio "
    "reads the dataset."
)


@dataclass(frozen=True)
class Export:
    """Write a scene for other programs: meshes, clouds, cameras; all in the world of transforms.json."""

    path: tyro.conf.Positional[Path]
    """The --output-dir of a run, its transforms.json, or a scene folder."""
    format: Annotated[tuple[str, ...], tyro.conf.arg(help=_FORMATS_HELP)] = ()
    consumers: Annotated[tuple[str, ...], tyro.conf.arg(name="for", help=_FOR_HELP)] = ()
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
            SystemExit: with 1 when a program of --for would not read the result.
        """
        from ..dataset.scene_folder import dataset_folder, find_scene
        from ..export.formats import export_scene
        from .display import RichRunLog

        consumers = chosen_consumers(self.consumers)
        formats = chosen(self.format) if self.format else _formats_for(consumers) or DEFAULT_FORMATS
        _require_readable(consumers, formats)
        scene = find_scene(self.path)
        output_dir = self.output_dir or dataset_folder(self.path) / DEFAULT_FOLDER
        console = Console(highlight=False, emoji=False)
        done = export_scene(
            scene,
            output_dir,
            formats,
            # Programs that are named look for the mask x.png of x.png.
            replace(self.config, mask_names="same") if consumers else self.config,
            RichRunLog(),
            mesh=self.mesh,
            overwrite=self.overwrite,
            keep_going=self.format == ("all",) or not (self.format or consumers),
        )
        for name, files in done.items():
            console.print(f"[bold]{name:<12}[/] {escape(_where(output_dir, files))}", soft_wrap=True)
        if consumers:
            _check(consumers, [output_dir / name for name in done if (output_dir / name).is_dir()])


def _where(output_dir: Path, files: Sequence[str]) -> str:
    """What was written, in words: the folder that programs are given, where all files lie in one."""
    if not files:
        return "nothing: nothing moves"
    folders = {file.split("/")[0] for file in files}
    if len(folders) == 1 and len(files) > 1:
        return f"{output_dir / folders.pop()} ({len(files)} files)"
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(str(output_dir / file) for file in files[:3]) + more


def _formats_for(consumers: Sequence[str]) -> tuple[str, ...]:
    """The formats that are made for some programs. Raises InputError where they need none."""
    from ..check.examine import known_consumers

    known = known_consumers()
    own = [name for name in consumers if not known[name].formats]
    if own:
        raise InputError(f"--for {own[0]}: it reads the dataset itself, without an export")
    return tuple(dict.fromkeys(format_ for name in consumers for format_ in known[name].formats))


def _require_readable(consumers: Sequence[str], formats: Sequence[str]) -> None:
    """Raises InputError where programs are named, and formats none of which a program is checked for."""
    from ..check.examine import known_consumers

    checked = {"colmap", *(format_ for consumer in known_consumers().values() for format_ in consumer.formats)}
    if consumers and not checked & set(formats):
        raise InputError(
            f"--for {' '.join(consumers)}: nothing of --format {' '.join(formats)} is for it: leave --format out"
        )


def _check(consumers: Sequence[str], folders: Sequence[Path]) -> None:
    """Say what programs make of what was written for them. Raises SystemExit with 1 where a rule does not hold."""
    from ..check.examine import check_folder, known_consumers

    known, failed = known_consumers(), False
    for name in consumers:
        made = [folder for folder in folders if folder.name in (*known[name].formats, "colmap")]
        for folder in made or folders:
            for verdict in check_folder(folder, [name]):
                show_verdict(verdict, folder)
                failed |= verdict.state == "fail"
    if failed:
        raise SystemExit(1)


def chosen(words: tuple[str, ...]) -> tuple[str, ...]:
    """The formats of --format: words with commas between or not, 'all' for all. Raises InputError."""
    names = tuple(name for word in words for name in word.split(",") if name)
    names = EXPORT_FORMATS if names == ("all",) else names
    unknown = [name for name in names if name not in EXPORT_FORMATS]
    if unknown or not names:
        raise InputError(f"--format {' '.join(unknown) or '(none)'}: choose from {', '.join(EXPORT_FORMATS)}, or all")
    return names
