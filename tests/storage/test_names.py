"""Names on disk that are no text: what can be written under them is, and the rest is refused before the work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from easi3r_ns.core.errors import CheckpointError
from easi3r_ns.core.unicode import is_unicode
from easi3r_ns.network import sources
from easi3r_ns.storage.files import write_text
from easi3r_ns.storage.rows import empty_tensor

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of any bytes")
NAME = os.fsdecode(b"o\xff caf\xe9")
"""Latin-1, as on an old disk: no UTF-8."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.mkdir()
    return path


def test_which_names_are_text(folder: Path, tmp_path: Path) -> None:
    assert not is_unicode(folder / "x") and is_unicode(tmp_path / "caf\u00e9 \U0001f600")


def test_a_tensor_in_a_file_needs_no_name(folder: Path) -> None:
    tensor = empty_tensor((3, 4), torch.float32, folder)
    tensor.fill_(2)
    assert tensor.sum() == 24 and not list(folder.iterdir())


def test_text_with_a_name_that_is_none_is_written_with_escapes(folder: Path) -> None:
    write_text(folder / "t.txt", f"{NAME} \u2192")
    assert (folder / "t.txt").read_text(encoding="utf-8") == "o\\udcff caf\\udce9 \u2192"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
def test_weights_under_such_a_name_are_refused_with_the_remedy(folder: Path, suffix: str) -> None:
    path = folder / f"weights{suffix}"
    if suffix:
        path.write_bytes(b"x")
    else:
        path.mkdir()
    with pytest.raises(CheckpointError, match="not UTF-8.*rename it"):
        sources.resolve(str(path), download=False)


@pytest.mark.long
def test_a_run_under_such_names(folder: Path) -> None:
    """The dataset, its report and an export; the process does not end in a library."""
    clip = ROOT / "examples" / "clip" / "clip.mp4"
    if not clip.exists() or not (sources.BUNDLED / "tiny" / "model.safetensors").exists():
        pytest.skip("needs the example clip and the tiny weights")
    data, out = folder / os.fsdecode(b"cl\xe9p.mp4"), folder / os.fsdecode(b"\xfeout")
    shutil.copyfile(clip, data)
    options = "--weights tiny --num-frames-target 4 --num-downscales 0 --refine none --motion attention"
    run = ["run", "--data", str(data), "--output-dir", str(out), *options.split(), "--align.flow-weight", "0"]
    environment = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    for words in (run, ["export", str(out), "--format", "mesh", "cloud", "glb", "colmap"]):
        command = [sys.executable, "-m", "easi3r_ns", *words]
        env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        result = subprocess.run(command, capture_output=True, timeout=900, env=env, cwd=ROOT)
        assert result.returncode == 0, result.stderr.decode("utf-8", "replace")
        assert b"could not be written" not in result.stderr
    assert (out / "report.html").is_file() and (out / "export" / "mesh.ply").is_file()
