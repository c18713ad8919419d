"""Clips at the same time on the workers of a Ray cluster: one that is started here, or one that runs already."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import socket
from dataclasses import replace
from typing import Any

from ..align.long.spread import is_open
from ..core.errors import InputError, MissingExtraError, shortened
from ..core.install import install_extra
from .jobs import ClipJob
from .schedule import Crash, Needs
from .work import Attempt, Examination, attempt, examine, help_clip

STORE_BYTES = 80 * 2**20
"""Object store of a cluster that is started here: results are a few lines, files go through the disk."""
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_STARTS = 3
"""How often a cluster is started: on a busy machine Ray gives itself up after half a minute."""
_LEAST_SHARE = 0.05
"""Share of a GPU that a clip reserves at least: its libraries take some hundred MB of GPU memory."""
_LOOK_SHARE = 0.01
"""Share that an examination reserves, because workers without one see no GPU."""


def is_installed() -> bool:
    """Whether Ray can be imported; does not import it."""
    return importlib.util.find_spec("ray") is not None


class OnRay:
    """An :class:`~.schedule.Executor` on Ray.

    Ray itself repeats nothing: the schedule does, with the reason in the record.

    Args:
        workers: clips at the same time; None on a running cluster: as many as it has processors for.
        cpus: processors that a clip reserves.
        address: of a running cluster; None starts one here.
        num_gpus: of a cluster that is started here; None: those that Ray finds.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: there is no cluster at the address, or it has too few processors.
    """

    def __init__(
        self, workers: int | None, cpus: int = 1, address: str | None = None, num_gpus: int | None = None
    ) -> None:
        if address is not None:
            _knock(address)
        if not is_installed():
            raise MissingExtraError(f"a batch on several workers needs Ray: {install_extra('cluster')}")
        # Read when Ray is imported and when its processes start.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._ray, self._cpus = ray, cpus
        if address is None:
            _start(ray, num_cpus=(workers or 1) * cpus, num_gpus=num_gpus)
        else:
            try:
                ray.init(address=address, **_QUIET)
            except (ConnectionError, ValueError, RuntimeError) as error:
                said = shortened(str(error), 160)
                raise InputError(f"--address {address}: no Ray cluster answers there ({said})") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._most_memory = max((node.get("memory", 0.0) for node in nodes), default=0.0)
        self._has_gpu = any(node.get("GPU", 0.0) for node in nodes)
        fitting = sum(int(node.get("CPU", 0.0) // cpus) for node in nodes)
        if not fitting:
            self.stop()
            raise InputError(f"--clip-cpus {cpus}: no machine of the cluster has so many processors for Ray")
        self.slots = min(fitting, workers or fitting)
        self._busy: dict[Any, str] = {}
        self._running: dict[str, tuple[ClipJob, Needs]] = {}
        """The clips whose datasets are made, by their names."""
        self._helping: set[Any] = set()

    def examine(self, job: ClipJob) -> None:
        """See :class:`~.schedule.Executor`."""
        self._submit(examine, job, {"num_cpus": 1, "num_gpus": _LOOK_SHARE if self._has_gpu else 0}, job)

    def attempt(self, job: ClipJob, needs: Needs) -> None:
        """See :class:`~.schedule.Executor`."""
        job = replace(job, shares_windows=self.slots > 1)
        self._running[job.name] = (job, needs)
        self._submit(attempt, job, self.reserved(needs), job, self._cpus)

    def reserved(self, needs: Needs) -> dict[str, float]:
        """The resources of Ray for a clip: never more than one machine has, so that each finds a place."""
        memory = math.floor(min(needs.memory_bytes, self._most_memory))
        share = math.ceil(100 * max(needs.gpu_share, _LEAST_SHARE)) / 100 if needs.gpu_share and self._has_gpu else 0
        return {"num_cpus": self._cpus, "memory": memory, "num_gpus": min(1.0, share)}

    def _submit(self, work: Any, job: ClipJob, resources: dict[str, float], *arguments: Any) -> None:
        remote = self._ray.remote(work).options(max_retries=0, name=f"{work.__name__} {job.name}", **resources)
        self._busy[remote.remote(*arguments)] = job.name

    def ended(self, timeout: float) -> list[tuple[str, Examination | Attempt | Crash]]:
        """See :class:`~.schedule.Executor`."""
        ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=timeout)
        found = [(self._busy.pop(reference), self._result(reference)) for reference in ready]
        for name, result in found:
            if not isinstance(result, Examination):
                self._running.pop(name, None)
        self._help()
        return found

    def _help(self) -> None:
        """Let workers that have no clip align windows of long clips."""
        if self._helping:
            ended, _ = self._ray.wait(list(self._helping), num_returns=len(self._helping), timeout=0)
            self._helping -= set(ended)  # whatever became of them: the clip itself does what they did not
        for job, needs in self._running.values():
            while len(self._busy) + len(self._helping) < self.slots and is_open(job.windows):
                work: Any = self._ray.remote(help_clip)
                work = work.options(max_retries=0, name=f"windows of {job.name}", **self.reserved(needs))
                self._helping.add(work.remote(job, self._cpus))

    def _result(self, reference: Any) -> Examination | Attempt | Crash:
        errors = self._ray.exceptions
        try:
            found: Examination | Attempt = self._ray.get(reference)
            return found
        except errors.OutOfMemoryError:
            return Crash("its worker was ended because the memory of the machine ran out", lack=True)
        except errors.RayTaskError as error:
            return Crash(f"its worker failed: {shortened(str(error.cause or error))}")
        except errors.RayError as error:
            return Crash(f"its worker is gone ({type(error).__name__})")

    def stop(self) -> None:
        """See :class:`~.schedule.Executor`; a cluster that was started here ends."""
        for reference in (*getattr(self, "_busy", ()), *getattr(self, "_helping", ())):
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def _knock(address: str) -> None:
    """Raise InputError where nothing listens at ``host:port`` or ``ray://host:port``: Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # such as auto
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5.0):
            return
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers there ({error})") from error


def _start(ray: Any, **resources: Any) -> None:
    """A cluster on this machine. Raises MissingExtraError where Ray does not start."""
    for number in range(1, _STARTS + 1):
        try:
            ray.init(address="local", object_store_memory=STORE_BYTES, include_dashboard=False, **resources, **_QUIET)
            return
        except Exception as error:  # of no class of its own
            ray.shutdown()
            if number == _STARTS:
                raise MissingExtraError(
                    f"Ray does not start here ({shortened(str(error), 160)}): --workers 1 works without it"
                ) from error
