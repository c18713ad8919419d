"""A run that is killed while it ends: the same command finishes it, cleans up, and says so when nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks of one process")


def killed_runs(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.killed_run", str(folder), *arguments]
    # One thread: a fork does not take the threads of its parent with it.
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=env)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def check(found: dict[str, Any], *, parts: int = 1) -> None:
    """Each run died, the next one made what an uninterrupted run makes, and the one after it changed nothing."""
    assert found["reference"]["code"] == 0 and found["reference"]["made"] == parts
    for result in found["results"]:
        where = result["at"]
        assert result["killed"] == {"status": -9}, where
        assert result["again"]["code"] == 0, (where, result["again"])
        assert result["same"], (where, result["unlike"])
        assert result["third"]["code"] == 0 and result["third"]["made"] == 0 and result["untouched"], where
        assert sum("is finished already" in line for line in result["third"]["said"]) == parts


@pytest.mark.slow
def test_a_run_killed_in_its_last_instants(tmp_path: Path) -> None:
    found = killed_runs(tmp_path, "whole", "1", "ends")
    check(found)
    assert len(found["results"]) >= 5
    assert all(result["complete"] and result["again"]["made"] == 0 for result in found["results"])


@pytest.mark.slow
def test_parts_go_on_after_one_that_was_killed_in_its_last_instant(tmp_path: Path) -> None:
    found = killed_runs(tmp_path, "split", "7", "ends")
    check(found, parts=2)
    assert {result["again"]["made"] for result in found["results"]} == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "parts", "every"), [("whole", 1, 3), ("report", 1, 9), ("split", 2, 23)])
def test_a_run_killed_at_any_operation_from_the_dataset_on(tmp_path: Path, kind: str, parts: int, every: int) -> None:
    check(killed_runs(tmp_path, kind, str(every), "all"), parts=parts)
