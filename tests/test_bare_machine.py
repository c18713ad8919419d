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


@pytest.mark.slow
def test_from_backbone_to_alignment_everything_imports() -> None:
    assert {"network.model", "network.inference", "align.align", "align.solvers.adam", "pipelines.network"} <= set(CORE)
    code = "".join(f"import {PACKAGE}.{module}\n" for module in CORE)
    assert run_without((*MISSING, "roma"), code + "print('imported')") == "imported"


def test_what_is_missing_is_missed() -> None:
    with pytest.raises(AssertionError, match="import of av halted"):
        run_without(MISSING, "import av")


@pytest.mark.long
def test_the_benchmark_runs_at_toy_size() -> None:
    rows = {stage: (seconds, operations) for stage, seconds, operations in json.loads(run_without(MISSING, BENCH))}
    assert {"decode", "encode", "pass 1", "statistics", "masks", "flow", "pass 2", "alignment"} <= set(rows)
    assert all(rows[stage][1] > 0 for stage in ("encode", "pass 1", "pass 2"))


COMMAND = """
from easi3r_ns.cli.main import main
try:
    main({arguments})
except SystemExit as end:
    print(end.code)
"""


@pytest.mark.parametrize("arguments", [["export", "OUT", "--format", "mesh"], ["view", "OUT", "--open3d"]])
def test_without_the_libraries_of_open3d_a_command_names_the_packages(tmp_path: Path, arguments: list[str]) -> None:
    """As in a container without libGL, where the import of Open3D fails. It mostly has no display either."""
    from easi3r_ns.dataset.scene_folder import write_scene
    from tests.support.dataset_scene import make_scene

    scene, _ = make_scene(tmp_path / "store", (160, 120), 3)
    write_scene(scene, tmp_path / "out" / "scene")
    words = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    blocked = "import sys\nsys.modules['open3d'] = None\n"
    command = [sys.executable, "-W", "ignore", "-c", blocked + COMMAND.format(arguments=words)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines()[-1] == "6"
    errors = [line for line in result.stderr.splitlines() if line.strip()]
    assert "Traceback" not in result.stderr and "apt-get install libusb-1.0-0 libgl1 libgomp1" in errors[-1]
    assert not (tmp_path / "out" / "export" / "mesh.ply").exists()
