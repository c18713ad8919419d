"""`easi3r plan`: predict time and memory of a run, before weights are downloaded or loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Tuple

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.config import AlignConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.runlog import duration
from ..plan.stages import rounded, time_range
from .display import wrapped

if TYPE_CHECKING:
    from ..plan.forecast import Forecast
    from ..plan.geometric import GeometricForecast

FORECAST_WORDS = {
    "frames": "read the frames",
    "encode frames": "show each frame to the network",
    "pass 1": "compare pairs of frames (pass 1)",
    "pass 2": "predict points from pairs (pass 2)",
    "bundle adjustment": "cameras from features (COLMAP)",
    "dataset": "write the dataset, check, report",
}
"""Stages of a forecast that stand for several of a run, in words."""


@dataclass(frozen=True)
class Plan:
    """Predict frames, pairs, time and peak memory of a run on this machine."""

    data: tyro.conf.Positional[Path]
    """A video file, an animated GIF, WebP or PNG, a folder of images, a .zip of images, or a pattern: 'shots/*.jpg',
    shot_%04d.png."""
    more_data: tyro.conf.Positional[Tuple[Path, ...]] = ()
    """Further clips of the same scene."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)

    def main(self) -> None:
        """Print the forecast, and for ``--weights auto`` that of the network and what a run would choose.

        Raises:
            Easi3RError: the clip, the weights or the options cannot be used.
        """
        from ..frames import is_sphere
        from ..network.sources import AUTO
        from ..pipelines.choice import choose_weights, judge_weights
        from ..pipelines.geometric import NAME, GeometricPipeline
        from ..pipelines.pipeline import RunConfig
        from ..pipelines.several import all_clips, makes_several, refuse_several
        from ..pipelines.sphere import check_sphere
        from ..plan.plan import plan_run
        from .display import RichRunLog

        log, console = RichRunLog(), Console(highlight=False, emoji=False)
        config = RunConfig(self.frames, self.config, self.align, refine=self.refine, more_data=self.more_data)
        data, config = all_clips(self.data, config)
        several = makes_several(data, config)
        without_network = several or is_sphere(data, config.frames)
        if without_network and self.config.weights == AUTO:
            choice = choose_weights(data, None, config, log)
            choice.say(log)
            config = choice.applied(config)
        if several:
            refuse_several(config, (data, *config.more_data))
        check_sphere(data, config, config.easi3r.weights)
        if config.easi3r.weights == NAME:
            print_forecast(GeometricPipeline(config).forecast(data, log), console)
            return
        refines = self.refine.refine != "none"
        forecast = plan_run(data, self.frames, self.config, self.align, log, refine=refines)
        print_forecast(forecast, console)
        if self.config.weights == AUTO:
            console.print(escape(judge_weights(data, config, log, plan=forecast).line), soft_wrap=True)


def print_forecast(forecast: Forecast | GeometricForecast, console: Console) -> None:
    """Print a table with a line per stage and the total, the budget with its limit, and how the numbers were found."""
    on_gpu = any(stage.gpu_bytes for stage in forecast.stages)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in ("time", "GiB", *(("GPU GiB",) if on_gpu else ())):
        table.add_column(column, justify="right")
    for stage in forecast.stages:
        gpu = [f"{stage.gpu_bytes / 2**30:.2f}"] if on_gpu else []
        time = duration(stage.seconds) if stage.seconds >= 1 else f"{stage.seconds:.1f} s"
        table.add_row(escape(FORECAST_WORDS.get(stage.name, stage.name)), time, _gib(stage.memory_bytes), *gpu)
    peak = [_gib(max(stage.gpu_bytes for stage in forecast.stages))] if on_gpu else []
    table.add_row("total", duration(rounded(forecast.seconds)), _gib(forecast.memory_bytes), *peak)
    console.print(escape(str(forecast)), soft_wrap=True)
    console.print(table)
    console.print(f"[bold]time[/]    {escape(time_range(forecast.stages))}", soft_wrap=True)
    limit = f" (limit: {forecast.budget.memory_bytes / 2**30:.1f} GiB)" if forecast.budget.bounded else ""
    console.print(f"[bold]budget[/]  {escape(str(forecast.budget))}{limit}", soft_wrap=True)
    if forecast.remedy:
        console.print(escape(wrapped(forecast.remedy, console)), soft_wrap=True)
    known, count = sum(stage.known for stage in forecast.stages), len(forecast.stages)
    console.print(escape(wrapped(_origin(known, count), console)), soft_wrap=True)


def _origin(known: int, count: int) -> str:
    """How the numbers of ``count`` stages were found, of which ``known`` have run here before."""
    if known == count:
        return "All stages are estimated from earlier runs on this machine."
    counted = "operation counts: these may take half or twice as long."
    if not known:
        return f"All stages are estimated from {counted}"
    return f"{known} of {count} stages are estimated from earlier runs on this machine, the others from {counted}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
