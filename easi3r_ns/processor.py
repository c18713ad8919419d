"""`ns-process-data easi3r` and `easi3r run`: the nerfstudio processor."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from .config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig


@dataclass
class ProcessEasi3R:
    """Casual video with moving things -> cameras, motion masks, depth and static points (Easi3R)."""

    data: Path
    """A video file or a folder of images."""
    output_dir: Path
    """Folder for the dataset; an existing dataset is refused without --overwrite."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    dataset: tyro.conf.OmitArgPrefixes[DatasetConfig] = field(default_factory=DatasetConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the dataset that an earlier run left in --output-dir; other files stay."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Log every step, and show tracebacks."""

    def main(self) -> None:
        """Run, print the closing summary; on an error print one line and exit with its code (never return)."""
        raise NotImplementedError
