"""`easi3r report`: write the report card and the preview video of an existing dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import tyro
from rich.console import Console
from rich.markup import escape

from .options import OutputFolder


@dataclass(frozen=True)
class Report:
    """Write report.html, which judges whether a dataset is good enough to train on, and preview.mp4.

    Both are made from the scene that the run stored in the dataset, and replace earlier ones.
    """

    path: tyro.conf.Positional[Path]
    """The --output-dir of a run, its transforms.json, or a scene folder."""
    output_dir: Optional[OutputFolder] = None
    """Folder for both files; default: the dataset itself."""

    def main(self) -> None:
        """Write both files and print the verdict.

        Raises:
            InputError: there is no scene at ``path``.
            OutputError: files of the user have these names, or writing failed.
        """
        from ..dataset.scene_folder import dataset_folder, find_scene
        from ..report.card import write_report_card
        from .display import RichRunLog, wrapped

        scene = find_scene(self.path)
        card = write_report_card(scene, dataset_folder(self.path), RichRunLog(), self.output_dir)
        console = Console(highlight=False, emoji=False)
        if card.verdict is not None:
            summary = escape(wrapped(card.verdict.summary, console))
            console.print(f"[bold]{card.verdict.level.words}.[/] {summary}", soft_wrap=True)
            for check in card.verdict.against:
                text = wrapped(f"{check.reason} {check.rule.remedy}", console, 2)
                console.print(f"- {escape(text)}", soft_wrap=True)
        for file in (card.report, card.preview):
            console.print(escape(str(file)), soft_wrap=True)
        for position, step in enumerate(card.steps):
            console.print(f"[bold]{'or' if position else 'next':<5}[/]{escape(step.command)}", soft_wrap=True)
