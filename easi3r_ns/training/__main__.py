"""``python -m easi3r_ns.training``: train a small DUSt3R from scratch on rendered scenes; run it again to resume."""

from __future__ import annotations

import logging

import torch
import tyro

from .config import TrainConfig
from .curve import draw
from .export import export
from .trainer import Trainer


def main() -> None:
    """Train, draw the learning curve, export."""
    config = tyro.cli(TrainConfig, prog="python -m easi3r_ns.training")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(config.threads)
    Trainer(config).run()
    draw(config.output_dir)
    folder = export(config, config.output_dir / "export")
    logging.info("exported to %s; measure it with: python -m easi3r_ns.training.measure %s", folder, folder)


if __name__ == "__main__":
    main()
