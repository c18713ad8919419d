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

    auto is DIS on a CPU; on a GPU it is RAFT when its weights are on this machine, else DIS. Only ``raft`` downloads.

    Raises:
        CheckpointError: the weights of the estimator cannot be fetched, or their file is damaged.
        InputError: ``name`` is neither auto nor one of :data:`ESTIMATORS`.
    """
    reason = ""
    if name == "auto":
        on_gpu = compute.device.type != "cpu"
        name = "raft" if on_gpu and raft.weights_path().is_file() else "dis"
        if on_gpu and name == "dis":
            reason = (
                " (RAFT would be more accurate, but its weights are not on this machine: --flow raft fetches "
                f"{raft.download_megabytes()} MB)"
            )
    if name not in ESTIMATORS:
        raise InputError(f"--flow {name}: give auto, {' or '.join(sorted(ESTIMATORS))}")
    provider = ESTIMATORS[name](compute, log)
    log.detail(f"optical flow: {provider.name}{reason}")
    return provider
