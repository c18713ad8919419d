"""COLMAP's PatchMatch beside our stereo: the files in between, and a stand-in that knows the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pycolmap
import pytest
import torch

from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.core.errors import InputError, MissingExtraError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.depth.agree import SAME
from easi3r_ns.depth.choose import Stereo, choose_stereo
from easi3r_ns.depth.patchmatch import HIDDEN
from easi3r_ns.depth.stereo import stereo_depth
from easi3r_ns.depth.workspace import name_of, read_depth_map, read_map, write_map
from easi3r_ns.pipelines import stereo as asked
from easi3r_ns.refine import dense
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.scenes import Clip, render_clip
from tests.support.clip_scene import perfect_scene, true_points

FRAMES = 6
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(3, FRAMES, 96, 128)


@pytest.fixture
def scene(clip: Clip, tmp_path: Path) -> Scene:
    scene = replace(perfect_scene(clip, tmp_path), sparse=true_points(clip))
    return replace(scene, depth=np.zeros_like(scene.depth), confidence=np.zeros_like(scene.confidence))


class KnowsTheAnswer:
    """Leaves the true depth, movers among it, and 0 where ``unknown`` is True; keeps what the workspace held."""

    def __init__(self, truth: np.ndarray, unknown: np.ndarray) -> None:
        self.truth, self.unknown, self.calls = truth, unknown, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        self.model = pycolmap.Reconstruction(folder / "sparse")
        self.pairs = (folder / "stereo" / "patch-match.cfg").read_text(encoding="utf-8").splitlines()
        self.images = [cv2.imread(str(folder / "images" / name_of(k)), cv2.IMREAD_GRAYSCALE) for k in range(FRAMES)]
        for k in range(FRAMES):
            depth = np.where(self.unknown[k], 0, self.truth[k]).astype(np.float32)
            write_map(folder / "stereo" / "depth_maps" / f"{name_of(k)}.geometric.bin", depth[..., None])


def standing(clip: Clip) -> KnowsTheAnswer:
    unknown = np.zeros_like(clip.moving)
    unknown[:, :10] = True
    return KnowsTheAnswer(clip.depth, unknown)


def by(patch_match: object) -> Stereo:
    return Stereo("patchmatch", torch.device("cpu"), patch_match)


def test_depth_is_what_patch_match_found_where_others_agree(clip: Clip, scene: Scene) -> None:
    answer = standing(clip)
    log = RunLog()
    found = stereo_depth(scene, log, how=by(answer))
    known = found.depth > 0
    assert known[~clip.moving & ~answer.unknown].mean() > 0.8
    np.testing.assert_allclose(found.depth[known], clip.depth[known], rtol=SAME)
    assert (found.depth[clip.moving] == 0).all() and (found.depth[answer.unknown] == 0).all()
    assert (found.confidence[known] >= 2).all() and (found.confidence[~known] == 0).all()
    assert [stage.name for stage in log.stages] == ["stereo by PatchMatch", "stereo agreement"]


def test_depth_on_which_no_other_frame_agrees_is_unknown(clip: Clip, scene: Scene) -> None:
    answer = standing(clip)
    answer.truth = clip.depth * np.linspace(1, 2, FRAMES)[:, None, None]
    assert (stereo_depth(scene, RunLog(), how=by(answer)).depth > 0).mean() < 0.05


def test_colmap_reads_the_workspace_as_it_is_meant(clip: Clip, scene: Scene) -> None:
    answer = standing(clip)
    stereo_depth(scene, RunLog(), how=by(answer))
    model = answer.model
    assert model.num_reg_images() == FRAMES and model.num_points3D() > 50
    for k in range(FRAMES):
        image = model.image(k + 1)
        assert image.name == name_of(k)
        np.testing.assert_allclose(image.cam_from_world().matrix(), np.linalg.inv(scene.T_world_cam[k])[:3], atol=1e-9)
        camera = model.camera(image.camera_id)
        assert camera.model_name == "PINHOLE" and (camera.width, camera.height) == (128, 96)
        np.testing.assert_allclose(camera.params[2:], np.asarray(scene.principal_point) + 0.5)
        for point in image.points2D[:20]:
            seen = camera.img_from_cam(image.cam_from_world() * model.point3D(point.point3D_id).xyz)
            np.testing.assert_allclose(seen, point.xy, atol=1e-6)
        assert (answer.images[k][clip.moving[k]] == HIDDEN).all(), "PatchMatch sees no movers"
        assert answer.images[k][~clip.moving[k]].std() > 5
    assert answer.pairs[::2] == [name_of(k) for k in range(FRAMES)]
    assert all(set(line.split(", ")) <= set(answer.pairs[::2]) - {own} for own, line in
               zip(answer.pairs[::2], answer.pairs[1::2], strict=True))  # fmt: skip


def test_what_was_matched_is_kept(clip: Clip, scene: Scene, tmp_path: Path) -> None:
    answer, cache = standing(clip), StageCache(tmp_path / "stages")
    first, second = (stereo_depth(scene, RunLog(), cache, how=by(answer)) for _ in range(2))
    np.testing.assert_array_equal(first.depth, second.depth)
    assert answer.calls == 1
    stereo_depth(scene, RunLog(), cache)
    assert answer.calls == 1, "another method does not take its result"


def test_maps_are_those_of_colmap(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(1, 9, (5, 7)).astype(np.float32)
    theirs = tmp_path / "theirs.bin"
    pycolmap.DepthMap.from_array(values, 1.0, 9.0).write(theirs)
    np.testing.assert_array_equal(read_map(theirs)[..., 0], values)
    write_map(tmp_path / "ours.bin", values[..., None])
    assert (tmp_path / "ours.bin").read_bytes() == theirs.read_bytes()
    normals = np.random.default_rng(1).standard_normal((5, 7, 3)).astype(np.float32)
    write_map(tmp_path / "normals.bin", normals)
    np.testing.assert_array_equal(read_map(tmp_path / "normals.bin"), normals)
    # As COLMAP's scripts/python/read_write_dense.py reads it.
    content = (tmp_path / "normals.bin").read_bytes()
    flat = np.frombuffer(content[len(b"7&5&3&") :], np.float32)
    np.testing.assert_array_equal(flat.reshape((7, 5, 3), order="F").transpose(1, 0, 2), normals)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"", "does not begin"),
        (b"7&5&", "does not begin"),
        (b"-7&5&1&", "does not begin"),
        (b"99999999&5&1&", "does not begin"),
        (b"7&5&1&" + bytes(139), "139 bytes of values, not 140"),
        (b"999999&999999&1&" + bytes(8), "8 bytes of values"),
        (b"5&7&1&" + bytes(140), "has the shape"),
        (b"7&5&3&" + bytes(420), "has the shape"),
    ],
)
def test_damaged_maps_are_refused(content: bytes | None, told: str, tmp_path: Path) -> None:
    folder = tmp_path / "stereo" / "depth_maps"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / f"{name_of(0)}.geometric.bin").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_depth_map(tmp_path, 0, (5, 7))


def test_values_that_are_no_depth_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "stereo" / "depth_maps").mkdir(parents=True)
    values = np.array([[np.nan, np.inf, -1.0, 0.0, 2.5]], dtype=np.float32)
    write_map(tmp_path / "stereo" / "depth_maps" / f"{name_of(3)}.geometric.bin", values[..., None])
    np.testing.assert_array_equal(read_depth_map(tmp_path, 3, (1, 5)), [[0, 0, 0, 0, 2.5]])


def test_what_goes_wrong_in_it_is_one_line_with_the_remedy(scene: Scene) -> None:
    def broken(folder: Path) -> None:
        raise RuntimeError("out of memory\nstack trace")

    for fails, told in ((broken, "out of memory"), (lambda folder: None, "geometric.bin cannot be read")):
        with pytest.raises(MissingExtraError, match=told) as error:
            stereo_depth(scene, RunLog(), how=by(fails))
        assert "--stereo torch" in str(error.value) and "\n" not in str(error.value)


def test_who_measures() -> None:
    def run(folder: Path) -> None: ...

    cpu, mps = torch.device("cpu"), torch.device("mps")

    def chosen(name: str, device: torch.device, there: bool = True) -> str:
        return str(choose_stereo(name, device, run if there else None, None if there else "built without CUDA"))

    assert chosen("auto", CUDA) == "patchmatch on cuda"
    assert [chosen("auto", CUDA, there=False), chosen("auto", mps), chosen("auto", cpu)] == [
        *("torch on cuda", "torch on mps", "opencv"),
    ]
    assert [chosen(name, CUDA) for name in ("opencv", "torch", "patchmatch")] == [
        *("opencv", "torch on cuda", "patchmatch on cuda"),
    ]
    assert chosen("torch", cpu) == "torch on cpu"
    with pytest.raises(MissingExtraError, match="built without CUDA"):
        chosen("patchmatch", CUDA, there=False)
    with pytest.raises(InputError, match="not on cpu"):
        chosen("patchmatch", cpu)


def test_the_run_says_who_measured(clip: Clip, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(RunLog, "info", lambda self, message: told.append(message))
    for name in ("auto", "opencv"):
        found = asked.measured_depth(scene, Easi3RConfig(stereo=name, device="cpu"), StageCache(None), RunLog())
        assert found.provenance["stereo"] == "opencv"
    monkeypatch.setattr(asked, "choose_stereo", lambda *args: by(standing(clip)))
    found = asked.measured_depth(scene, Easi3RConfig(), StageCache(None), RunLog())
    assert found.provenance["stereo"] == "patchmatch on cpu"
    assert told == ["depth by stereo: opencv"] * 2 + ["depth by stereo: patchmatch on cpu"]


@pytest.mark.parametrize("has_cuda", (False, True))
def test_patch_match_of_pycolmap(has_cuda: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    build = SimpleNamespace(
        has_cuda=has_cuda,
        __version__="4.2.1",
        PatchMatchOptions=pycolmap.PatchMatchOptions,
        patch_match_stereo=lambda *args: calls.append(args),
    )
    monkeypatch.setattr(dense, "load_pycolmap", lambda: build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ("no CUDA device" if has_cuda else "pycolmap-cuda12") in str(dense.patch_match_refusal())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (dense.patch_match_refusal() is None) == has_cuda
    dense.run_patch_match(tmp_path)
    ((workspace, kind, _, options),) = calls
    assert (workspace, kind) == (tmp_path, "COLMAP") and options.geom_consistency and options.filter


def test_asked_for_where_it_is_not_it_is_refused() -> None:
    if getattr(pycolmap, "has_cuda", False):
        pytest.skip("pycolmap has CUDA here")
    with pytest.raises(MissingExtraError, match="built without CUDA.*pycolmap-cuda12"):
        asked.stereo_of(Easi3RConfig(stereo="patchmatch"))
