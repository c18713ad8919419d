"""Writing files: all or nothing, links untouched, strict JSON, clear complaints."""

from __future__ import annotations

import ast
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


FOREIGN_NAME = "Füße_映像.png"


def test_names_outside_the_code_page_are_read_and_written(tmp_path, monkeypatch):
    """On Windows OpenCV's own functions fail on such names: they may not be called."""
    import cv2

    monkeypatch.setattr(cv2, "imread", None)
    monkeypatch.setattr(cv2, "imwrite", None)
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    files.write_png(tmp_path / FOREIGN_NAME, image)
    np.testing.assert_array_equal(files.read_png(tmp_path / FOREIGN_NAME), image)
    deep = image[..., 0].astype(np.uint16) * 257
    files.write_png(tmp_path / FOREIGN_NAME, deep)
    np.testing.assert_array_equal(files.decode_image(tmp_path / FOREIGN_NAME, cv2.IMREAD_UNCHANGED), deep)


FAIL_ON_NAMES = {"imread", "imwrite", "imreadmulti", "imwritemulti", "imcount", "VideoCapture", "VideoWriter"}
OPEN3D_READERS = {"read_point_cloud", "read_triangle_mesh", "write_point_cloud", "write_triangle_mesh", "read_image"}


def names_used(source: str) -> set[str]:
    """Names that a module takes out of others: attributes, and what it imports by name."""
    nodes = list(ast.walk(ast.parse(source)))
    named = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return named | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_no_module_calls_what_fails_on_such_names():
    """Open3D, given a name that is not UTF-8, ends the process: it gets names from ``storage/names.py`` only."""
    package = Path(files.__file__).parent.parent
    found = {
        path.name: names_used(path.read_text(encoding="utf-8")) & (FAIL_ON_NAMES | OPEN3D_READERS)
        for path in package.rglob("*.py")
    }
    assert len(found) > 100
    assert not {name: used for name, used in found.items() if used & FAIL_ON_NAMES}
    with_open3d = {name for name, used in found.items() if used & OPEN3D_READERS}
    assert with_open3d == {"dataparser.py", "window.py", "loadback.py"}
    for name in with_open3d:
        text = next(package.rglob(name)).read_text(encoding="utf-8")
        assert "plain_name(" in text, name


@pytest.mark.parametrize("line", ["cv2.imread(p)", "from cv2 import imread", "read = cv2 . imread", "x.cv2.imwrite(a)"])
def test_such_calls_are_found(line):
    assert names_used(line) & FAIL_ON_NAMES


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_what_is_no_image_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(OSError):
        files.read_png(tmp_path / "a.png")


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
