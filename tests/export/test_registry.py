"""The tables of formats and layouts: what stands in them works, and a new line is all that a new one needs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from easi3r_ns.core.config import ExportConfig, MeshConfig
from easi3r_ns.core.errors import InputError, MissingExtraError
from easi3r_ns.core.registry import Entry
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.export import EXPORT_FORMATS, EXPORTERS, formats
from easi3r_ns.export.exporter import Exporter, ExportJob
from easi3r_ns.export.formats import export_scene
from easi3r_ns.importers import IMPORTERS, folder
from easi3r_ns.importers.folder import import_folder
from easi3r_ns.importers.recording import Importer
from easi3r_ns.storage.files import write_bytes
from tests.support.dataset_scene import make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("store"), (160, 120), 3)[0]


@pytest.mark.parametrize("entry", EXPORTERS, ids=lambda entry: entry.name)
def test_every_exporter_names_the_files_that_it_may_write(entry, scene, tmp_path):
    exporter = entry.load("EXPORTER")
    assert isinstance(exporter, Exporter) and entry.summary
    files = exporter.files(ExportJob(scene, tmp_path, ExportConfig(), MeshConfig()))
    assert files and not any(Path(file).is_absolute() for file in files)
    assert not list(tmp_path.iterdir())


def test_names_are_told_apart():
    names = [entry.name for entry in EXPORTERS]
    assert len(set(names)) == len(names) and tuple(names) == EXPORT_FORMATS
    assert all(isinstance(entry.load("IMPORTER"), Importer) for entry in IMPORTERS)


def _module(monkeypatch, **values) -> str:
    module = ModuleType("a_module_of_the_test")
    module.__dict__.update(values)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_a_line_in_the_table_is_a_format(scene, tmp_path, monkeypatch):
    def write(job: ExportJob) -> list[Path]:
        write_bytes(job.folder / "count.txt", str(len(job.scene)).encode())
        return [job.folder / "count.txt"]

    name = _module(monkeypatch, EXPORTER=Exporter(files=lambda job: {"count.txt"}, write=write))
    monkeypatch.setattr(formats, "EXPORTERS", (Entry("count", name, "the number of frames"),))
    monkeypatch.setattr(formats, "EXPORT_FORMATS", ("count",))
    assert export_scene(scene, tmp_path, ["count"], ExportConfig(), RunLog()) == {"count": ["count.txt"]}
    assert (tmp_path / "count.txt").read_text() == "3"


def test_a_line_in_the_table_is_a_layout(scene, tmp_path, monkeypatch):
    asked = []
    own = Importer("notes.txt", lambda path: (path / "notes.txt").is_file(), lambda path, options: asked.append(path))
    monkeypatch.setattr(folder, "IMPORTERS", (Entry("notes", _module(monkeypatch, IMPORTER=own), "a stranger"),))
    monkeypatch.setattr(folder, "pictures_of", lambda recording: None)
    monkeypatch.setattr(folder, "to_scene", lambda recording, pictures, path, options: scene)
    with pytest.raises(InputError, match=r"neither notes.txt \(a stranger\)"):
        import_folder(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert import_folder(tmp_path) is scene and asked == [tmp_path]


def test_what_a_format_lacks_is_told_before_anything_is_written(scene, tmp_path, monkeypatch):
    nothing = np.zeros_like(scene.depth)
    with pytest.raises(InputError, match="--format mesh: the scene has no depth"):
        export_scene(
            replace(scene, depth=nothing, confidence=nothing), tmp_path, ["tum", "mesh"], ExportConfig(), RunLog()
        )
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError, match=r"\[rerun\]"):
        export_scene(scene, tmp_path, ["tum", "rerun"], ExportConfig(), RunLog())
    assert not list(tmp_path.iterdir())
