"""``python -m easi3r_ns.training.measure WEIGHTS``: measure a checkpoint, with a progress bar."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...core.usage import own_errors, own_usage_errors
from .run import MeasureConfig, measure


def main() -> None:
    """Entry of the module; errors are one line and the exit code of their kind."""
    with own_errors(), own_usage_errors():
        config = tyro.cli(MeasureConfig, prog="python -m easi3r_ns.training.measure")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(config.threads)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as bars:

        def progress(name: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=total)
            return lambda n: bars.update(task, advance=n)

        with own_errors():
            measure(config, progress)


if __name__ == "__main__":
    main()
