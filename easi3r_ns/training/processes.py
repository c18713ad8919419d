"""A training run as one process, or as several that average their gradients."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from .config import TrainConfig
from .trainer import Trainer


def run(config: TrainConfig) -> None:
    """Train until the budget is spent, in as many processes as the configuration asks for."""
    if config.processes == 1:
        _train(config)
        return
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_train_together, (config, Path(folder) / "rendezvous"), config.processes)


def _train(config: TrainConfig) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(config.threads)
    Trainer(config).run()


def _train_together(rank: int, config: TrainConfig, rendezvous: Path) -> None:
    distributed.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=config.processes)
    try:
        _train(config)
    finally:
        distributed.destroy_process_group()
