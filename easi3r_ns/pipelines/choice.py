"""What ``--weights auto`` means for a run: the best network where it is fast enough on this machine, else none.

The choice is made once. It is kept in the workspace, so that an interrupted run goes on with it, and written to the
dataset's provenance.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core.budget import GIB
from ..core.errors import CheckpointError, Easi3RError, MemoryLimitError
from ..core.runlog import RunLog, duration
from ..frames import is_sphere, open_source
from ..frames.clips import has_several_sizes
from ..network.compute import free_memory
from ..network.sources import AUTO, BEST, KNOWN, NotAvailableError, reason_against_download, resolve
from ..plan.forecast import Forecast
from ..plan.plan import plan_run
from ..plan.stages import time_range
from ..storage.files import jsonable, make_folder, write_json
from .geometric import NAME as NONE
from .pipeline import RunConfig, choose_pipeline
from .sphere import WHY_NONE

LONGEST_SECONDS = 900.0
"""A network that is forecast to take longer is left to those who ask for it."""
NONE_SECONDS = (2.0, 6.0)
"""CPU seconds a frame without a network, depth included, least and most; clips of 540x360 to 854x480 pixels in
examples/results/results.md and depth.md."""
_FILE = "weights.json"


@dataclass(frozen=True)
class WeightsChoice:
    """The weights of a run."""

    weights: str
    """Value of ``--weights``, never ``auto``."""
    line: str = ""
    """For ``auto``: what was chosen and why, what the other would take, and how to ask for it; else empty."""
    plan: Forecast | None = field(default=None, compare=False)
    """Forecast of the run with the network, where the choice made it and took the network."""
    key: Any = field(default=None, compare=False)
    """Source and options that the choice belongs to."""

    def applied(self, config: RunConfig) -> RunConfig:
        """The options with the chosen weights."""
        return _with_weights(config, self.weights)

    def say(self, log: RunLog) -> None:
        """Write the line, if there is one, to the log."""
        if self.line:
            log.info(self.line)

    def provenance(self) -> dict[str, Any]:
        """JSON-serialisable entry for the scene; empty where the user named the weights."""
        return {"weights_choice": {"asked": AUTO, "chosen": self.weights, "line": self.line}} if self.line else {}

    def keep(self, workspace: Path) -> None:
        """Write the choice where :func:`choose_weights` finds it again. Raises OutputError when the disk refuses."""
        if self.line:
            make_folder(workspace)
            write_json(workspace / _FILE, {"key": self.key, "weights": self.weights, "line": self.line})


def choose_weights(data: Path, workspace: Path | None, config: RunConfig, log: RunLog) -> WeightsChoice:
    """The weights of a run on ``data``: those that the options name, or for ``auto`` those of an interrupted run with
    the same source and options, or else a new choice. A network is downloaded first; where that fails, it is not taken.

    Args:
        workspace: folder of intermediate files, where the choice of an interrupted run may lie; it need not exist.

    Raises:
        Easi3RError: the source or an option cannot be used; CheckpointError: the weights on this machine are damaged.
    """
    if config.easi3r.weights != AUTO:
        return WeightsChoice(config.easi3r.weights)
    if config.more_data or has_several_sizes(data, config.frames):
        many = "several clips" if config.more_data else "images of several sizes"
        return WeightsChoice(NONE, f"--weights {AUTO} takes {NONE} (no network): features join {many}")
    if is_sphere(data, config.frames):
        return WeightsChoice(NONE, f"--weights {AUTO} takes {NONE} (no network): {WHY_NONE}")
    key = jsonable({"version": __version__, "source": open_source(data).signature(), "config": asdict(config)})
    choice = _kept(workspace, key) or judge_weights(data, config, log)
    if choice.weights == BEST:
        try:
            resolve(BEST, log=log)
        except NotAvailableError as error:
            if _reason_against_none(config) is not None:
                raise
            choice = _without_network(f"{_named()} cannot be had: {error.reason}")
    return replace(choice, key=key)


def judge_weights(data: Path, config: RunConfig, log: RunLog, *, plan: Forecast | None = None) -> WeightsChoice:
    """What ``auto`` means here; decodes one frame, times parts of the network, and downloads nothing.

    Args:
        plan: forecast of the run with the network, for a caller that has it already.

    Raises:
        Easi3RError: as :func:`choose_weights`.
    """
    network = _with_weights(config, BEST)
    choose_pipeline(network).check(RunLog())  # an option with a bad value is an error whatever is chosen
    if (reason := _reason_against_none(config)) is not None:
        return WeightsChoice(BEST, f"--weights {AUTO} takes {_named()}, because {NONE} cannot be used: {reason}")
    try:
        plan = plan or plan_run(
            *(data, config.frames, network.easi3r, config.align, log),
            eval_data=config.eval_data,
            refine=config.refine.refine != "none",
        )
    except MemoryLimitError as error:
        return _without_network(f"{BEST} does not fit: {error}")
    if (reason := _reason_against_network(plan)) is not None:
        return _without_network(reason)
    low, high = (duration(seconds * plan.job.num_frames) for seconds in NONE_SECONDS)
    line = (
        f"--weights {AUTO} takes {_named()}: {_cost(plan)}. --weights {NONE} would take roughly {low} to {high} on the "
        "CPU, without depth of what moves"
    )
    return WeightsChoice(BEST, line, plan)


def _reason_against_network(plan: Forecast) -> str | None:
    """Why the network is not taken; None: it is. The hub is asked only where nothing else speaks against it."""
    reason = None
    if plan.seconds > LONGEST_SECONDS:
        reason = f"{AUTO} takes a network for up to {duration(LONGEST_SECONDS)}"
    elif plan.memory_bytes > plan.budget.memory_bytes:
        reason = f"only {plan.budget.memory_bytes / GIB:.1f} GiB are free"
    elif plan.device == "cuda" and plan.gpu_bytes > (free := free_memory(torch.device("cuda")) or 0.0):
        reason = f"only {free / GIB:.1f} GiB are free on the GPU"
    try:
        resolve(BEST, download=False)
        download = ""
    except CheckpointError as error:
        if reason is None and not isinstance(error, NotAvailableError):
            raise  # damaged weights: the user has to know, unless they are not wanted anyway
        download = " after its download"
        if reason is None and (refused := reason_against_download(BEST)) is not None:
            reason = f"it is not on this machine, and {refused}"
    return None if reason is None else f"{_named()} would take {_cost(plan)}{download}; {reason}"


def _reason_against_none(config: RunConfig) -> str | None:
    """Why the pipeline without a network cannot do what the options ask for; None: it can."""
    try:
        choose_pipeline(_with_weights(config, NONE)).check(RunLog())
    except Easi3RError as error:
        return str(error)
    return None


def _without_network(reason: str) -> WeightsChoice:
    return WeightsChoice(
        NONE, f"--weights {AUTO} takes {NONE} (no network): {reason}. To have the network, say --weights {BEST}"
    )


def _named() -> str:
    known = KNOWN[BEST]
    return f"{BEST} ({known.description}, licence {known.licence})"


def _cost(plan: Forecast) -> str:
    gpu = f" and {plan.gpu_bytes / GIB:.1f} GiB on the GPU" if plan.gpu_bytes else ""
    return f"about {time_range(plan.stages)} and {plan.memory_bytes / GIB:.1f} GiB of memory{gpu} ({plan.device})"


def _with_weights(config: RunConfig, weights: str) -> RunConfig:
    return replace(config, easi3r=replace(config.easi3r, weights=weights))


def _kept(workspace: Path | None, key: Any) -> WeightsChoice | None:
    """The choice of an interrupted run; None: there is none, or it belongs to another source or other options."""
    if workspace is None:
        return None
    try:
        found = json.loads((workspace / _FILE).read_text(encoding="utf-8"))
        return WeightsChoice(found["weights"], found["line"]) if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
