"""Scene folders that are cut, flipped, swapped or of other types: one clear line, or a scene that can be exported."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig, ExportConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.scene_folder import ARRAYS, SCENE_JSON, find_scene, write_scene
from easi3r_ns.export.formats import export_scene
from tests.dataset.test_scene_folder import full_scene
from tests.support.helpers import npz_that_announces

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error:Casting complex values")

CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half": lambda a: a.astype(np.float16),
    "objects": lambda a: a.astype(object),
    "text": lambda a: a.astype("U3"),
    "complex": lambda a: a.astype(np.complex64),
    "flags": lambda a: a.astype(bool),
    "whole": lambda a: np.nan_to_num(a.astype(float), posinf=1).astype(np.int64),
    "negative": lambda a: -1 - a.astype(float) if a.dtype.kind == "f" else a.astype(np.int64) - 10**12,
    "NaN": lambda a: a * np.nan,
    "infinite": lambda a: a + np.inf,
    "enormous": lambda a: a.astype(float) + 1e300,
    "no rows": lambda a: a[:0] if a.ndim else np.empty(0),
    "one row": lambda a: a[:1] if a.ndim else a,
    "an axis more": lambda a: a[None],
    "flat": lambda a: a.ravel(),
    "turned": lambda a: a.T,
    "nothing": lambda a: a * 0,
    "a number": lambda a: a.ravel()[0] if a.size else a,
}
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, float("nan"), float("inf"), "x", "../../../etc/passwd", "", 10**30, "\ud800"),
    *([], [None], [[]], {}, {"a": 1}, [1] * 3, ["x"] * 3, ["x"] * 3000),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    scene = replace(full_scene(folder), names=("a", "b", "c"))
    write_dataset(scene, folder / "out", DatasetConfig(num_downscales=0, report=False), RunLog())
    return folder / "out"


@pytest.fixture(scope="module")
def arrays(dataset: Path) -> dict[str, np.ndarray]:
    return dict(np.load(dataset / "scene" / ARRAYS))


@pytest.fixture
def work(dataset: Path, tmp_path: Path) -> Path:
    """The scene folder of a copy."""
    folder = tmp_path / "out" / "scene"
    folder.mkdir(parents=True)
    for name in (SCENE_JSON, ARRAYS):
        (folder / name).write_bytes((dataset / "scene" / name).read_bytes())
    return folder


def check_told_or_usable(folder: Path, what: str) -> bool:
    """Whether the scene was refused; if not, it goes through an export that uses cameras, lens, times and names."""
    try:
        scene = find_scene(folder)
    except InputError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 600 and str(folder) in text, (what, text)
        return True
    export_scene(scene, folder.parent / "export", ("tum",), ExportConfig(), RunLog(), overwrite=True)
    return False


def test_files_that_are_cut_or_flipped(work: Path) -> None:
    for name, count in ((ARRAYS, 25), (SCENE_JSON, 15)):
        content, rng = (work / name).read_bytes(), np.random.default_rng(0)
        for at in rng.integers(0, len(content), count).tolist():
            (work / name).write_bytes(content[:at])
            assert check_told_or_usable(work, f"{name} cut at {at}")
        ends = range(len(content) - 1, max(0, len(content) - 3000), -97)
        for at in [*rng.integers(0, len(content), count).tolist(), *ends]:
            flipped = bytearray(content)
            flipped[at] ^= 0xFF
            (work / name).write_bytes(bytes(flipped))
            check_told_or_usable(work, f"{name} flipped at {at}")
        (work / name).write_bytes(content)
    assert not check_told_or_usable(work, "as it was")


@pytest.mark.parametrize("change", CHANGES)
def test_arrays_of_another_kind(change: str, work: Path, arrays: dict[str, np.ndarray]) -> None:
    refused = set()
    for name, values in arrays.items():
        with np.errstate(all="ignore"):
            np.savez(work / ARRAYS, **{**arrays, name: CHANGES[change](values)})
        if check_told_or_usable(work, f"{name}: {change}"):
            refused.add(name)
    always = {"images", "dynamic.masks", "T_world_cam", "depth"}
    free = {"whole": {"depth"}, "half": {"depth", "T_world_cam"}, "nothing": {"images", "dynamic.masks", "depth"}}
    free["flags"] = {"dynamic.masks"}
    assert refused >= always - free.get(change, set()) - ({"depth"} if change == "flat" else set())


def test_arrays_that_stand_for_others(work: Path, arrays: dict[str, np.ndarray]) -> None:
    names = list(arrays)
    for name, other in zip(names, names[3:] + names[:3]):
        np.savez(work / ARRAYS, **{**arrays, name: arrays[other], other: arrays[name]})
        check_told_or_usable(work, f"{name} and {other} exchanged")
        np.savez(work / ARRAYS, **{key: values for key, values in arrays.items() if key != name})
        check_told_or_usable(work, f"without {name}")


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        if key != "provenance":
            yield from places(entry, (*path, key))


@pytest.mark.slow
def test_json_of_another_kind(work: Path) -> None:
    meta = json.loads((work / SCENE_JSON).read_text(encoding="utf-8"))
    for path in [*places(meta), ("provenance",)]:
        for value in VALUES:
            changed = json.loads(json.dumps(meta))
            at = changed
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            (work / SCENE_JSON).write_text(json.dumps(changed), encoding="utf-8")
            check_told_or_usable(work, f"{path} = {value!r:.40}")


@pytest.mark.parametrize(
    "provenance",
    [{"stages": [{"name": "x"}]}, {"stages": {"a": 1}}, {"stages": ["x"]}, {"weights": "tiny"}, {"motion": [1]}],
)
def test_a_provenance_that_pages_cannot_read(provenance: dict[str, object], work: Path) -> None:
    meta = json.loads((work / SCENE_JSON).read_text(encoding="utf-8"))
    (work / SCENE_JSON).write_text(json.dumps(meta | {"provenance": provenance}), encoding="utf-8")
    with pytest.raises(InputError, match="is damaged .*provenance"):
        find_scene(work)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format":' * 100_000, "", "null", "\ufeff{}"])
def test_json_that_is_no_scene(text: str, work: Path) -> None:
    (work / SCENE_JSON).write_text(text, encoding="utf-8")
    assert check_told_or_usable(work, text[:10])


def test_arrays_from_elsewhere_are_not_read(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.npz").write_bytes((work / ARRAYS).read_bytes())
    for name in ("../../secret.npz", str(tmp_path / "secret.npz"), SCENE_JSON):
        meta = json.loads((work / SCENE_JSON).read_text(encoding="utf-8")) | {"arrays": name}
        (work / SCENE_JSON).write_text(json.dumps(meta), encoding="utf-8")
        with pytest.raises(InputError, match="arrays = "):
            find_scene(work)


def test_arrays_that_announce_more_than_there_is(work: Path) -> None:
    npz_that_announces(work / ARRAYS, "dynamic.masks", (200_000_000_000,))
    with pytest.raises(InputError, match="announces 745 GiB .* the file has 128 bytes"):
        find_scene(work)


def test_a_member_twice_or_with_a_password(work: Path) -> None:
    with zipfile.ZipFile(work / ARRAYS) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    content = bytearray((work / ARRAYS).read_bytes())
    first = content.index(b"PK\x01\x02")
    content[first + 8] |= 1  # encrypted, says the directory
    (work / ARRAYS).write_bytes(bytes(content))
    assert check_told_or_usable(work, "encrypted")
    with zipfile.ZipFile(work / ARRAYS, "w") as archive:
        for name, member in members.items():
            archive.writestr(f"../{name}", member)
    assert check_told_or_usable(work, "names that lead out of the folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", [ARRAYS, SCENE_JSON])
def test_pipes_do_not_hang(name: str, work: Path) -> None:
    (work / name).unlink()
    os.mkfifo(work / name)
    with pytest.raises(InputError):
        find_scene(work)


def test_a_pickle_is_not_opened(work: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(work / ARRAYS, **{**arrays, "images": np.array([Hostile(work / "executed")], dtype=object)})
    assert check_told_or_usable(work, "pickle")
    assert not (work / "executed").exists()
    with np.load(work / ARRAYS, allow_pickle=True) as unsafe:
        unsafe["images"]
    assert (work / "executed").exists()  # the same file does run code elsewhere: the test can fail


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_scene_that_was_written_is_read(tmp_path: Path) -> None:
    """The checks refuse nothing that the writer writes."""
    scene = full_scene(tmp_path)
    assert len(find_scene(write_scene(scene, tmp_path / "scene"))) == len(scene)
