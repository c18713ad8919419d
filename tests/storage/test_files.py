"""Writing files: all or nothing, links untouched, strict JSON, clear complaints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.errors import OutputError
from easi3r_ns.storage import files


def test_replacing_a_file_leaves_its_other_names_alone(tmp_path):
    files.write_bytes(tmp_path / "a", b"old")
    os.link(tmp_path / "a", tmp_path / "b")
    files.write_bytes(tmp_path / "a", b"new")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"new", b"old")
    files.link_or_copy(tmp_path / "b", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old" and os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    files.write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="disk is full"):
        files.write_bytes(tmp_path / "a", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("shape, dtype", [((5, 7), np.uint8), ((5, 7), np.uint16), ((5, 7, 3), np.uint8)])
def test_png_is_lossless_and_rgb(tmp_path, shape, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    files.write_png(tmp_path / "a.png", image)
    from PIL import Image

    with Image.open(tmp_path / "a.png") as back:
        np.testing.assert_array_equal(np.asarray(back), image)
    if image.ndim == 3:
        np.testing.assert_array_equal(files.read_png(tmp_path / "a.png"), image)


def test_json_is_strict(tmp_path):
    value = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "a": np.arange(2),
        "b": np.bool_(True),
        3: Path("x"),
        "s": (1, np.int64(2)),
    }
    files.write_json(tmp_path / "a.json", value)
    back = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert back == {"nan": None, "inf": None, "a": [0, 1], "b": True, "3": "x", "s": [1, 2]}


def test_a_source_that_is_missing_is_not_copied(tmp_path):
    with pytest.raises(OutputError, match="target"):
        files.link_or_copy(tmp_path / "missing", tmp_path / "target")
