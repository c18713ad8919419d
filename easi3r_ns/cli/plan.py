"""`easi3r plan`: predict time and memory of a run, before weights are downloaded or loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.config import AlignConfig, Easi3RConfig, FrameConfig, RefineConfig

if TYPE_CHECKING:
    from ..plan.forecast import Forecast


@dataclass(frozen=True)
class Plan:
    """Predict frames, pairs, seconds and peak memory of a run, after a short calibration on this machine."""

    data: tyro.conf.Positional[Path]
    """A video file, an animated GIF, WebP or PNG, a folder of images, a .zip of images, or a pattern: 'shots/*.jpg',
    shot_%04d.png."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)

    def main(self) -> None:
        """Print the forecast of the network, and for ``--weights auto`` what a run would choose.

        Raises:
            Easi3RError: the clip, the weights or the options cannot be used.
        """
        from ..network.sources import AUTO
        from ..pipelines.choice import judge_weights
        from ..pipelines.pipeline import RunConfig
        from ..plan.plan import plan_run
        from .display import RichRunLog

        log, console = RichRunLog(), Console(highlight=False, emoji=False)
        refines = self.refine.refine != "none"
        forecast = plan_run(self.data, self.frames, self.config, self.align, log, refine=refines)
        print_forecast(forecast, console)
        if self.config.weights == AUTO:
            config = RunConfig(self.frames, self.config, self.align, refine=self.refine)
            console.print(escape(judge_weights(self.data, config, log, plan=forecast).line), soft_wrap=True)


def print_forecast(forecast: Forecast, console: Console) -> None:
    """Print a table with a line per stage and the total, the budget with its limit, and how the numbers were found."""
    job = forecast.job
    size = "x".join(str(side * job.network.patch_size) for side in reversed(job.grid))
    on_gpu = forecast.gpu_bytes > 0
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in ("seconds", "GiB", *(("GPU GiB",) if on_gpu else ())):
        table.add_column(column, justify="right")
    rows = [(s.name, s.seconds, s.memory_bytes, s.gpu_bytes) for s in forecast.stages]
    rows.append(("total", forecast.seconds, forecast.memory_bytes, forecast.gpu_bytes))
    for name, seconds, memory, gpu in rows:
        numbers = [f"{seconds:.1f}", f"{memory / 2**30:.2f}", *([f"{gpu / 2**30:.2f}"] if on_gpu else [])]
        table.add_row(escape(name), *numbers)
    console.print(f"[bold]{job.num_frames}[/] frames at {size}, [bold]{job.num_pairs}[/] pairs, {forecast.device}")
    console.print(table)
    limit = f" (limit: {forecast.budget.memory_bytes / 2**30:.1f} GiB)" if forecast.budget.bounded else ""
    console.print(f"[bold]budget[/]  {escape(str(forecast.budget))}{limit}", soft_wrap=True)
    if forecast.remedy:
        console.print(escape(forecast.remedy), soft_wrap=True)
    console.print(
        "The network was timed on this machine with random weights; the other stages are estimated from operation "
        "counts and may take half or twice as long."
    )
