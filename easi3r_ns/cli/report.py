"""`easi3r report`: the report card and the preview video of a dataset, again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.markup import escape


@dataclass(frozen=True)
class Report:
    """Write report.html (is the dataset worth training on, and why?) and preview.mp4 again, from the stored scene."""

    path: tyro.conf.Positional[Path]
    """The --output-dir of a run, its transforms.json, or a scene folder."""

    def main(self) -> None:
        """Write both files into the dataset's folder and print the verdict.

        Raises:
            InputError: there is no scene at ``path``.
            OutputError: files of these names are not ours, or the disk refuses.
        """
        from ..dataset.scene_folder import dataset_folder, find_scene
        from ..report.card import write_report_card
        from .display import RichRunLog

        scene = find_scene(self.path)
        card = write_report_card(scene, dataset_folder(self.path), RichRunLog())
        console = Console(highlight=False)
        if card.verdict is not None:
            console.print(f"[bold]{card.verdict.level.words}[/]  {escape(card.verdict.summary)}", soft_wrap=True)
            for check in card.verdict.against:
                console.print(f"- {escape(check.reason)} {escape(check.rule.remedy)}", soft_wrap=True)
        for file in (card.report, card.preview):
            console.print(escape(str(file)), soft_wrap=True)
