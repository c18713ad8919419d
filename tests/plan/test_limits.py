"""The budget of a run: what is free, what is chosen, and that a run keeps it."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from easi3r_ns.core.budget import GIB, UNBOUNDED, Budget
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.network.compute import Compute
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.plan.forecast import Job, Rates, forecast
from easi3r_ns.plan.geometric import GeometricJob, forecast_geometric
from easi3r_ns.plan.limits import (
    FREE_SHARE,
    SWEEP_BYTES,
    available_memory_bytes,
    memory_limit,
    sweep_bytes,
    sweep_threads,
)
from easi3r_ns.plan.plan import MARGIN, choose_budget
from tests.plan.test_plan import write_pan

CPU = Compute(torch.device("cpu"))
GRAPH = "swinstride-5-noncyclic"
BASE = 0.5e9
NOTHING = Rates(0.0, 0.0, 0.0, BASE)


def job_of(num_frames: int, graph: str = GRAPH) -> Job:
    """The published network at 512x288."""
    pairs = len(make_pairs(graph, num_frames))
    return Job(DUSt3RConfig(), (18, 32), num_frames, pairs, 1024 * 576, AlignConfig(), graph=graph)


def peak(job: Job, budget: Budget, compute: Compute = CPU) -> float:
    return forecast(job, compute, NOTHING, budget).memory_bytes


def test_a_clip_that_fits_is_not_cut():
    assert choose_budget(job_of(10), CPU, 64.0, BASE) == Budget(0, 0, False, 64.0 * GIB)
    assert choose_budget(job_of(30), CPU, 64.0, BASE) == Budget(0, 0, True, 64.0 * GIB)  # large, and kept anyway
    on_gpu = Compute(torch.device("cuda"), batch_size=8)
    assert choose_budget(job_of(30), on_gpu, 64.0, BASE) == Budget(8, 0, False, 64.0 * GIB)


def test_forecast_keeps_the_limit_and_uses_it():
    job, roomy = job_of(300), peak(job_of(300), UNBOUNDED)
    windows = []
    for share in (0.9, 0.7, 0.55, 0.45, 0.35):
        limit = share * roomy / GIB
        budget = choose_budget(job, CPU, limit, BASE)
        assert peak(job, budget) <= MARGIN * limit * GIB
        windows.append(budget.window or job.num_frames)
        if 0 < budget.window < 0.7 * job.num_frames:  # the next longer window would not fit
            assert peak(job, replace(budget, window=int(budget.window / 0.75))) > MARGIN * limit * GIB
    assert windows == sorted(windows, reverse=True) and windows[-1] < job.num_frames
    assert len(set(windows)) > 2


def test_results_go_to_disk_before_the_clip_is_cut():
    job = job_of(12)
    whole, spilled = (peak(job, Budget(0, 0, spill, math.inf)) for spill in (False, True))
    assert spilled < whole  # otherwise there is nothing to see here
    limits = [(bytes_ + 1e6) / MARGIN / GIB for bytes_ in (whole, spilled)]
    chosen = [choose_budget(job, CPU, limit, BASE) for limit in limits]
    assert [(budget.spill, budget.window) for budget in chosen] == [(False, 0), (True, 0)]


@pytest.mark.parametrize("change", [{"spill": True}, {"batch_size": 1}, {"window": 20}, {"window": 40}])
def test_no_measure_takes_more_memory(change):
    job, compute = job_of(100), replace(CPU, batch_size=2)
    assert peak(job, replace(UNBOUNDED, **change), compute) <= peak(job, UNBOUNDED, compute)


def test_memory_of_a_window_does_not_grow_with_the_clip():
    short, long = (peak(job_of(n), Budget(1, 20, True, math.inf)) for n in (100, 1000))
    frames = 900 * (3 * 512 * 288 + 4 * 576 * 1024 + 9 * 512 * 288)
    assert long - short < 1.1 * frames


def test_a_limit_that_is_too_low_is_named_with_what_is_needed():
    job = job_of(60)
    with pytest.raises(InputError, match=r"--max-memory 0\.6: this run needs at least (\d+\.\d+) GiB") as error:
        choose_budget(job, CPU, 0.6, BASE)
    needed = float(str(error.value).split("at least ")[1].split()[0])
    budget = choose_budget(job, CPU, needed, BASE)
    assert budget.spill and str(budget) in str(error.value)
    with pytest.raises(InputError):
        choose_budget(job, CPU, 0.99 * needed, BASE)


def test_what_the_user_asks_for_is_kept():
    job = job_of(200)
    assert choose_budget(job, CPU, 64.0, BASE, window=32).window == 32
    assert choose_budget(job, replace(CPU, batch_size=3), 64.0, BASE).batch_size == 3
    with pytest.raises(InputError, match="windows of 180 frames"):
        choose_budget(job, CPU, 3.0, BASE, window=180)


def test_without_a_limit_the_free_memory_counts(monkeypatch):
    monkeypatch.setattr("easi3r_ns.plan.limits.available_memory_bytes", lambda: 4 * GIB)
    assert memory_limit(None, GIB) == GIB + FREE_SHARE * 4 * GIB
    assert memory_limit(2.5, GIB) == 2.5 * GIB
    assert choose_budget(job_of(300), CPU, None, BASE).window > 0
    monkeypatch.setattr("easi3r_ns.plan.limits.available_memory_bytes", lambda: 0.1 * GIB)
    assert choose_budget(job_of(300), CPU, None, BASE).spill  # goes on: memory may become free
    monkeypatch.setattr("easi3r_ns.plan.limits.available_memory_bytes", lambda: None)
    assert not choose_budget(job_of(300), CPU, None, BASE).bounded


def test_windows_that_the_graph_does_not_allow_are_not_chosen():
    job = job_of(60, "oneref-0")
    with pytest.raises(InputError, match="--max-memory") as error:
        choose_budget(job, CPU, 0.6, BASE)
    assert "windows" not in str(error.value)


def fake_system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_free_memory_is_the_least_of_machine_and_container(tmp_path):
    assert available_memory_bytes(tmp_path) is None
    machine = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\nHugePages_Total: 0\n"}
    assert available_memory_bytes(fake_system(tmp_path / "plain", machine)) == 8000000 * 1024
    group = {"memory.max": "2000000000\n", "memory.current": "1500000000\n", "memory.stat": "inactive_file 400000000\n"}
    v2 = fake_system(tmp_path / "v2", machine | {f"sys/fs/cgroup/{k}": v for k, v in group.items()})
    assert available_memory_bytes(v2) == 900_000_000
    fake_system(v2, {"sys/fs/cgroup/memory.max": "max\n"})
    assert available_memory_bytes(v2) == 8000000 * 1024
    old = {"limit_in_bytes": "1000", "usage_in_bytes": "1800", "stat": "total_inactive_file 100\n"}
    v1 = fake_system(tmp_path / "v1", machine | {f"sys/fs/cgroup/memory/memory.{k}": v for k, v in old.items()})
    assert available_memory_bytes(v1) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_has_free_memory():
    assert 2**24 < available_memory_bytes() < 2**50


def test_the_limit_of_the_process_counts(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="POSIX systems")
    files = {"proc/meminfo": "MemAvailable: 8000000 kB\n", "proc/self/status": "Name:\tx\nVmSize:\t 1000000 kB\n"}
    root = fake_system(tmp_path, files)
    endless = resource.RLIM_INFINITY
    for limit, left in ((3_000_000 * 1024, 2_000_000), (900_000 * 1024, 0), (endless, 8_000_000)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, endless))
        assert available_memory_bytes(root) == left * 1024


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (UNBOUNDED, "all frames at once, in memory"),
        (Budget(1, 0, False, 1.0), "pairs one by one"),
        (Budget(4, 24, True, 1.0), "4 pairs per call, intermediate results on disk, windows of 24 frames"),
    ],
)
def test_words(budget, words):
    assert str(budget) == words


KEEPS = """
import json, os, sys, tempfile
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from easi3r_ns.pipelines import network as pipeline, run
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.runlog import RunLog
plans, planned = [], pipeline.plan_run
pipeline.plan_run = lambda *args, **options: plans.append(planned(*args, **options)) or plans[-1]
frames = FrameConfig(num_frames_target=0)
network = Easi3RConfig(weights="tiny", graph="swin-12-noncyclic", motion="attention")
align = AlignConfig(iterations=1, max_pixels=0)
data, log = Path(sys.argv[1]), RunLog()
free = planned(data, frames, network, align, log)
limit = 0.97 * free.memory_bytes / 2**30
network, dataset = replace(network, max_memory=limit), DatasetConfig(num_downscales=0, report=False)
config = run.RunConfig(frames, network, align, dataset, RefineConfig("none"))
with tempfile.TemporaryDirectory() as folder:
    run.process(data, Path(folder) / "out", config, overwrite=False, log=log)
(plan,) = plans
facts = {"forecast": plan.memory_bytes, "window": plan.budget.window, "limit": limit * 2**30}
planned = {stage.name: stage.memory_bytes for stage in plan.stages}
peaks = {stage.name: stage.peak_memory_bytes for stage in log.stages}
print(json.dumps(facts | {"stages": peaks, "plan": planned}), flush=True)
os._exit(0)  # skips the interpreter's shutdown, which takes memory
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_keeps_its_limit_and_the_forecast_is_right(tmp_path):
    data, root = write_pan(tmp_path / "clip", 26), Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", KEEPS, str(data)]
    # Not ru_maxrss: a child inherits that of the process that starts it. The run log resets the record at every stage.
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    record, measured = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        with contextlib.suppress(OSError, StopIteration):
            line = next(line for line in record.read_text().splitlines() if line.startswith("VmHWM"))
            measured = max(measured, int(line.split()[1]) * 1024)
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 0, err
    facts = json.loads(out.splitlines()[-1])
    facts["measured"] = max(measured, *facts["stages"].values())
    assert facts["window"] > 0, facts  # as a whole it would not fit
    assert facts["measured"] < facts["limit"], facts
    assert 0.8 < facts["forecast"] / facts["measured"] < 1.2, facts


def test_threads_of_stereo_keep_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easi3r_ns.plan.limits.default_workers", lambda: 8)
    pixels = 512 * 288
    one = SWEEP_BYTES * pixels
    assert sweep_threads(None, pixels, 1e9) == 8 and sweep_bytes(None, pixels, 1e9) == 8 * one
    assert sweep_threads((1e9 + 3.5 * one) / GIB, pixels, 1e9) == 3
    assert sweep_threads(0.5, pixels, 1e9) == 1, "one there must be"
    assert sweep_threads(64, pixels, 1e9) == 8


def test_the_forecast_without_a_network_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easi3r_ns.plan.limits.default_workers", lambda: 8)

    def stereo(limit: float | None) -> float:
        job = GeometricJob(24, (512, 288), 1280 * 720, max_memory=limit)
        return next(stage.memory_bytes for stage in forecast_geometric(job).stages if stage.name == "stereo")

    assert stereo(None) - stereo(0.5) == pytest.approx(7 * SWEEP_BYTES * 512 * 288)
