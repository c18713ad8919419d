"""A bare GPU machine has PyTorch and the usual numerics, and nothing of nerfstudio's world."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layers import PACKAGE, dotted, modules

ROOT = Path(__file__).parent.parent
MISSING = ("nerfstudio", "open3d", "viser", "pycolmap", "rerun", "av", "evo", "tyro")
"""What such a machine lacks. The alignment also needs roma when it runs: a small wheel in pure Python."""
FOLDERS = ("core", "storage", "frames", "network", "motion", "align", "refine")
CORE = [
    module
    for module in map(dotted, modules())
    if module.startswith(FOLDERS) or module in ("pipelines.network", "pipelines.stages")
]
BENCH = """
import json, tempfile
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.bench.sides import measure_ours, prepare
from tests.bench.stages import Setting
setting = Setting(size="toy", frames=4, measured=0)
with tempfile.TemporaryDirectory() as folder:
    prepare(setting, Path(folder))
    rows = measure_ours(setting, Path(folder))
print(json.dumps([[row.stage, row.seconds, row.operations] for row in rows]))
"""


def run_without(missing: tuple[str, ...], code: str) -> str:
    """The last line that the code prints where importing any of ``missing`` fails."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in missing)
    command = [sys.executable, "-W", "ignore", "-c", f"import sys\n{blocked}{code}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.splitlines()[-1]


def test_from_backbone_to_alignment_everything_imports() -> None:
    assert {"network.model", "network.inference", "align.align", "align.solvers.adam", "pipelines.network"} <= set(CORE)
    code = "".join(f"import {PACKAGE}.{module}\n" for module in CORE)
    assert run_without((*MISSING, "roma"), code + "print('imported')") == "imported"


def test_what_is_missing_is_missed() -> None:
    with pytest.raises(AssertionError, match="import of av halted"):
        run_without(MISSING, "import av")


@pytest.mark.slow
def test_the_benchmark_runs_at_toy_size() -> None:
    rows = {stage: (seconds, operations) for stage, seconds, operations in json.loads(run_without(MISSING, BENCH))}
    assert {"decode", "encode", "pass 1", "statistics", "masks", "flow", "pass 2", "alignment"} <= set(rows)
    assert all(rows[stage][1] > 0 for stage in ("encode", "pass 1", "pass 2"))
