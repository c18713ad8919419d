"""The scene folder: an equal Scene comes back, whatever it holds; damage is told with the value."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import CameraUncertainty, PosedFrames, Scene, SparsePoints
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.scene_folder import ARRAYS, SCENE_JSON, dataset_folder, find_scene, read_scene, write_scene
from tests.support.dataset_scene import make_scene

SHIFTED = np.array([[1.0, 0, 0, 0.25], [0, 1, 0, 0.25], [0, 0, 1, 0.25], [0, 0, 0, 1]])


def full_scene(folder: Path) -> Scene:
    """Every optional field filled, every number awkward."""
    scene, _ = make_scene(folder / "store", (333, 187), 3)
    rng = np.random.default_rng(0)
    depth = (scene.depth + 0.01 * rng.standard_normal(scene.depth.shape)).astype(np.float32)
    depth[0, :2] = [[0.0], [np.float32(1e-38)]]
    depth[scene.dynamic.masks] = 0
    score = rng.random((3, 4, 5), dtype=np.float32)
    sparse = SparsePoints(
        points=rng.standard_normal((7, 3)),
        colors=rng.integers(0, 256, (7, 3), dtype=np.uint8),
        errors=rng.random(7),
        point_index=np.array([0, 0, 6, 3]),
        frame_index=np.array([0, 2, 1, 1]),
        pixels=rng.random((4, 2)) * 100,
    )
    return replace(
        scene,
        images=rng.integers(0, 256, scene.images.shape, dtype=np.uint8),
        depth=depth,
        confidence=rng.random(depth.shape, dtype=np.float32) * 1e6,
        contradicted=rng.random(depth.shape) > 0.5,
        assumed_depth=np.where(scene.dynamic.masks, rng.random(depth.shape), 0).astype(np.float32),
        dynamic=replace(scene.dynamic, score=score, maps={"mean_src": score**2, "std ref/x": score}, source="geometry"),
        focals=rng.random(3) + 100,
        distortion=(0.1, -0.02, 1e-17, 0.0),
        sparse=sparse,
        uncertainty=CameraUncertainty(
            rng.random(3), np.array([0.1, 1e-300, np.inf]), rng.random(3), np.array([0.1, np.nan, 3])
        ),
        pose_sources=("network", "colmap", "aligned"),
        names=("a b.jpg", "\u00e4.png", 'q"uote'),
        min_confidence=1.25,
        between=PosedFrames(
            T_world_cam=scene.T_world_cam[:2] @ SHIFTED,
            focals=rng.random(2) + 90,
            after=np.array([-1, 1]),
            mask_bits=rng.integers(0, 256, (2, depth.shape[1], -(-depth.shape[2] // 8)), dtype=np.uint8),
            times=np.array([0.1, 0.7]),
            indices=np.array([1, 7]),
            names=("b", "c"),
            source_paths=scene.source_paths[:2],
            pose_sources=("pnp", "interpolated"),
        ),
        provenance={"version": "test", "nested": {"list": [1, 2.5, None, True]}},
    )


def differing(a, b, where: str = "") -> list[str]:
    """Names of the fields in which two values differ: bit for bit, shapes and dtypes included."""
    if is_dataclass(a):
        parts = [differing(getattr(a, f.name), getattr(b, f.name), f"{where}.{f.name}") for f in fields(a)]
        return [name for part in parts for name in part]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [name for key in a for name in differing(a[key], b[key], f"{where}[{key}]")]
    if isinstance(a, np.ndarray):
        same = isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        same = type(a) is type(b) and (a == b or (a != a and b != b))
    return [] if same else [where]


def test_an_equal_scene_comes_back(tmp_path):
    scene = full_scene(tmp_path)
    assert write_scene(scene, tmp_path / "scene") == tmp_path / "scene"
    assert differing(scene, read_scene(tmp_path / "scene")) == []
    assert len(list((tmp_path / "scene").iterdir())) == 2


def test_what_is_not_there_stays_away(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 240), 2)
    scene = replace(scene, provenance={}, dynamic=replace(scene.dynamic, threshold=float("nan")))
    back = read_scene(write_scene(scene, tmp_path / "scene"))
    assert differing(scene, back) == []
    assert back.sparse is None and back.contradicted is None and back.dynamic.maps is None
    assert back.uncertainty is None and back.assumed_depth is None
    assert np.isnan(back.dynamic.threshold)


def test_the_comparison_sees_a_difference(tmp_path):
    scene = full_scene(tmp_path)
    assert differing(scene, replace(scene, distortion=(0.1, -0.02, 2e-17, 0.0))) == [".distortion"]
    assert differing(scene, replace(scene, depth=scene.depth.astype(float))) == [".depth"]


def test_strangers_read_it_with_json_and_numpy_alone(tmp_path):
    """In a process that cannot import this package, by the recipe of the documentation."""
    scene = full_scene(tmp_path)
    write_scene(scene, tmp_path / "scene")
    code = f"""
import json, sys, numpy
sys.modules["easi3r_ns"] = None
folder = {str(tmp_path / "scene")!r}
meta = json.load(open(folder + "/scene.json"))
arrays = numpy.load(folder + "/arrays.npz", allow_pickle=False)
assert meta["version"] == 2 and len(meta["names"]) == 3
for name in ("images", "depth", "confidence", "contradicted", "dynamic.masks", "T_world_cam", "sparse.points"):
    numpy.save(folder + "/" + name + ".npy", arrays[name])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    expected = {
        **{name: getattr(scene, name) for name in ("images", "depth", "confidence", "contradicted", "T_world_cam")},
        "dynamic.masks": scene.dynamic.masks,
        "sparse.points": scene.sparse.points,
    }
    assert differing(expected, {name: np.load(tmp_path / "scene" / f"{name}.npy") for name in expected}) == []


def test_twice_gives_identical_bytes(tmp_path):
    scene = full_scene(tmp_path)
    write_scene(scene, tmp_path / "scene")
    first = {file.name: file.read_bytes() for file in (tmp_path / "scene").iterdir()}
    write_scene(scene, tmp_path / "scene")
    assert first == {file.name: file.read_bytes() for file in (tmp_path / "scene").iterdir()}


def test_a_dataset_holds_its_scene_and_can_be_moved(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 240), 3)
    out = tmp_path / "out"
    write_dataset(scene, out, DatasetConfig(num_downscales=0), RunLog())
    out = out.rename(tmp_path / "elsewhere")
    for path in (out, out / "scene", out / "transforms.json", out / "scene" / SCENE_JSON):
        found = find_scene(path)
        assert found.source_paths == tuple(out / "images" / f"frame_{k:05d}.png" for k in (1, 2, 3))
        assert differing(scene, replace(found, source_paths=scene.source_paths, provenance=scene.provenance)) == []
    assert all(path.is_file() for path in found.source_paths)
    assert {"version", "warnings", "stages"} <= found.provenance.keys()


@pytest.mark.parametrize("part", ["", "transforms.json", "scene", "scene/scene.json", "images", "gone.json"])
def test_every_part_knows_its_dataset(tmp_path, part):
    (tmp_path / "scene").mkdir(), (tmp_path / "images").mkdir()
    (tmp_path / "scene" / SCENE_JSON).touch(), (tmp_path / "transforms.json").touch()
    expected = tmp_path / "images" if part == "images" else tmp_path
    assert dataset_folder(tmp_path / part) == expected


def test_overwriting_a_dataset_replaces_its_scene_and_nothing_else(tmp_path):
    for frames in (4, 2):
        scene, _ = make_scene(tmp_path / f"store{frames}", (320, 240), frames)
        write_dataset(scene, tmp_path / "out", DatasetConfig(num_downscales=0), RunLog(), overwrite=True)
        (tmp_path / "out" / "scene" / "notes.txt").write_text("mine")
    assert len(find_scene(tmp_path / "out")) == 2
    assert sorted(file.name for file in (tmp_path / "out" / "scene").iterdir()) == [ARRAYS, "notes.txt", SCENE_JSON]


def test_a_killed_write_leaves_no_scene(tmp_path, monkeypatch):
    scene = full_scene(tmp_path)
    write_scene(scene, tmp_path / "scene")

    def killed(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("easi3r_ns.dataset.scene_folder.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write_scene(scene, tmp_path / "scene")
    with pytest.raises(InputError, match="holds no scene.json"):
        read_scene(tmp_path / "scene")


def edited(folder: Path, **changes) -> None:
    meta = json.loads((folder / SCENE_JSON).read_text())
    (folder / SCENE_JSON).write_text(json.dumps(meta | changes))


DAMAGE = {
    "not JSON": (lambda f: (f / SCENE_JSON).write_text("{"), "cannot be read"),
    "a list": (lambda f: (f / SCENE_JSON).write_text("[]"), "is not a scene"),
    "another format": (lambda f: edited(f, format="colmap"), "is not a scene"),
    "a later version": (lambda f: edited(f, version=3), r"version 3 .* reads 2: use .*wrote it \(test\), or a newer"),
    "an earlier version": (lambda f: edited(f, version=1), "version 1 .* reads 2: run easi3r run .*with --overwrite"),
    "no version": (lambda f: edited(f, version=None, provenance=None), "version None of the format"),
    "no arrays": (lambda f: (f / ARRAYS).unlink(), "is damaged.*arrays.npz"),
    "cut arrays": (lambda f: (f / ARRAYS).write_bytes((f / ARRAYS).read_bytes()[:-100]), "is damaged"),
    "a flipped byte": (lambda f: _flip(f / ARRAYS), "is damaged"),
    "a frame too many": (lambda f: edited(f, names=["a", "b", "c", "d"]), "is damaged.*names: 4 entries for 3 frames"),
    "another size": (lambda f: edited(f, pixel_map={"source_wh": [9, 9]}), "is damaged"),
    "a field less": (lambda f: edited(f, distortion=None), "is damaged"),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told(tmp_path, kind):
    damage, message = DAMAGE[kind]
    damage(write_scene(full_scene(tmp_path), tmp_path / "scene"))
    with pytest.raises(InputError, match=message) as caught:
        find_scene(tmp_path / "scene")
    assert str(tmp_path / "scene") in str(caught.value)


def test_folders_without_a_scene(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_scene(tmp_path / "nowhere")
    with pytest.raises(InputError, match="easi3r run writes it"):
        find_scene(tmp_path)
