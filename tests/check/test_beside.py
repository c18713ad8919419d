"""What lies beside the pictures of a dataset of ours: ids of objects, and where depths came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.check.depth_sources import sources_fit
from easi3r_ns.check.examine import check_folder
from easi3r_ns.check.objects import objects_fit
from easi3r_ns.check.tree import Tree
from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.nerfstudio import TRANSFORMS, write_dataset
from easi3r_ns.storage.files import read_png, write_png
from tests.support.dataset_scene import make_scene

SOURCES, OBJECTS = Path("depth_sources/frame_00002.png"), Path("masks_objects/frame_00002.png")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = make_scene(tmp_path_factory.mktemp("store"), (160, 120), 3)[0]
    objects = scene.dynamic.masks.astype(np.uint16)
    told = replace(scene, dynamic=replace(scene.dynamic, objects=objects))
    return replace(told, depth_source=(told.depth > 0).astype(np.uint8))


@pytest.fixture
def out(scene: Scene, tmp_path: Path) -> Path:
    write_dataset(scene, tmp_path / "out", DatasetConfig(num_downscales=0, report=False), RunLog())
    return tmp_path / "out"


def said(out: Path, rule: Callable = sources_fit) -> tuple[str, str]:
    (found,) = rule(tree := Tree(out), tree.json(TRANSFORMS))
    return found.state, found.what


def test_what_was_written_fits(out: Path) -> None:
    assert said(out)[0] == said(out, objects_fit)[0] == "pass"
    (verdict,) = check_folder(out, ["nerfstudio"])
    assert any("depth_sources" in finding.what for finding in verdict.findings)


def test_a_file_that_is_gone_is_named(out: Path) -> None:
    for file, rule in ((SOURCES, sources_fit), (OBJECTS, objects_fit)):
        (out / file).unlink()
        state, what = said(out, rule)
        assert state == "fail" and file.stem in what


@pytest.mark.parametrize("change", ["other pixels", "unknown numbers", "another size", "16 bits"])
def test_sources_that_do_not_fit_are_named(out: Path, change: str) -> None:
    sources = read_png(out / SOURCES)
    sources = sources[..., 0] if sources.ndim == 3 else sources
    changed = {
        "other pixels": 1 - np.minimum(sources, 1),
        "unknown numbers": 9 * sources,
        "another size": sources[::2],
        "16 bits": sources.astype(np.uint16),
    }[change]
    write_png(out / SOURCES, changed)
    state, what = said(out)
    assert state == "fail" and str(SOURCES) in what


def test_text_under_the_name_of_an_image_is_told(out: Path) -> None:
    (out / SOURCES).write_text("text")
    (verdict,) = check_folder(out, ["nerfstudio"])
    assert any(finding.state == "fail" and SOURCES.name in finding.what for finding in verdict.findings)
