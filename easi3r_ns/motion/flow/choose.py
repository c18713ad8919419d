"""Which estimator of optical flow a run takes."""

from __future__ import annotations

from collections.abc import Callable

from ...core.errors import InputError
from ...core.runlog import RunLog
from ...network.compute import Compute
from . import raft
from .dis import DISFlow
from .provider import FlowProvider

ESTIMATORS: dict[str, Callable[[Compute, RunLog], FlowProvider]] = {
    "dis": lambda compute, log: DISFlow(),
    "raft": raft.load_raft,
}
"""Value of ``--flow`` -> what loads the estimator. A new one also joins the choices of ``Easi3RConfig.flow``."""


def choose_flow(name: str, compute: Compute, log: RunLog) -> FlowProvider:
    """The estimator that ``--flow`` names; the log says which it is.

    auto is DIS on a CPU and RAFT on a GPU, whose weights are downloaded where they are missing. Where that fails, it is
    DIS, with a warning.

    Raises:
        CheckpointError: the weights of the estimator that was asked for cannot be fetched, or their file is damaged.
        InputError: ``name`` is neither auto nor one of :data:`ESTIMATORS`.
    """
    if name == "auto":
        provider = _automatic(compute, log)
    elif name in ESTIMATORS:
        provider = ESTIMATORS[name](compute, log)
    else:
        raise InputError(f"--flow {name}: give auto, {' or '.join(sorted(ESTIMATORS))}")
    log.detail(f"optical flow: {provider.name}")
    return provider


def _automatic(compute: Compute, log: RunLog) -> FlowProvider:
    if compute.device.type == "cpu":
        return ESTIMATORS["dis"](compute, log)
    try:
        return ESTIMATORS["raft"](compute, log)
    except raft.RaftMissingError as error:
        log.warn(
            f"--flow auto takes RAFT on a GPU, but {error.reason}: DIS is used, which is less accurate. "
            "`easi3r weights fetch raft` downloads RAFT ahead of time, and --flow dis asks for DIS"
        )
        return ESTIMATORS["dis"](compute, log)
