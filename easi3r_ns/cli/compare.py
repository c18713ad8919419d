"""`easi3r compare`: several datasets of one clip side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.markup import escape

from ..core.errors import InputError, OutputError


@dataclass(frozen=True)
class Compare:
    """Show two to four datasets of one clip side by side: cameras, what moves, depth, time.

    Writes one page, and beside it a video in which all scenes play in step. The first dataset is the one that the
    others are compared with: runs with other options, or results of other programs (easi3r import).
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """The datasets: --output-dir of a run or an import, transforms.json, or a scene folder."""
    output: Path = Path("comparison.html")
    """The page to write; the video gets the same name with .mp4."""
    no_video: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave the video out, which takes most of the time."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace files of these names."""

    def main(self) -> None:
        """Write the page and the video.

        Raises:
            InputError: no scene at one of the paths, or no frames in common.
            OutputError: a file is in the way, or the disk refuses.
        """
        from fractions import Fraction

        from ..dataset.scene_folder import dataset_folder, find_scene
        from ..report.comparison import (
            VIDEO_FPS,
            VIDEO_SECONDS,
            comparison_frames,
            lay_together,
            write_comparison,
        )
        from ..storage.files import make_folder
        from ..storage.video import write_video
        from .display import RichRunLog

        page, video = self.output, self.output.with_suffix(".mp4")
        if page.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--output {page}: give the name of a page, such as comparison.html")
        for file in (page,) if self.no_video else (page, video):
            if file.exists() and (not self.overwrite or not file.is_file()):
                raise OutputError(f"{file} is there already: give another --output, or --overwrite")
        log = RichRunLog()
        names = short_names([dataset_folder(path) for path in self.paths])
        datasets = lay_together(names, [find_scene(path) for path in self.paths])
        make_folder(page.parent)
        if not self.no_video:
            with log.stage("comparison video", VIDEO_SECONDS * VIDEO_FPS) as advance:
                write_video(video, comparison_frames(datasets), Fraction(VIDEO_FPS), advance)
        with log.stage("comparison", len(datasets)) as advance:
            write_comparison(datasets, page, "" if self.no_video else video.name, advance)
        console = Console(highlight=False, emoji=False)
        for file in (page,) if self.no_video else (page, video):
            console.print(escape(str(file)), soft_wrap=True)


def short_names(folders: list[Path]) -> list[str]:
    """The last parts of the paths that tell them apart; the same folder twice gets numbers."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(("/".join(own[-1:]) for own in parts), 1)]
