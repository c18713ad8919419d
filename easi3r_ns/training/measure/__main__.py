"""``python -m easi3r_ns.training.measure WEIGHTS``: measure a checkpoint, with a progress bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...core.errors import Easi3RError
from .run import MeasureConfig, measure


def main() -> None:
    """Entry of the module; errors are one line and the exit code of their kind."""
    config = tyro.cli(MeasureConfig, prog="python -m easi3r_ns.training.measure")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(config.threads)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as bars:

        def progress(name: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=total)
            return lambda n: bars.update(task, advance=n)

        try:
            measure(config, progress)
        except Easi3RError as error:
            logging.error("%s", error)
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
