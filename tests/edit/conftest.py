"""A small dataset with a ball that moves and a false mask, and a session on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.edit.desk import Desk, Helpers
from easi3r_ns.edit.remake import Figure, Solved
from easi3r_ns.edit.session import Session
from easi3r_ns.edit.store import FolderStore
from tests.support.dataset_scene import make_scene

FALSE = slice(0, 12), slice(90, 110)
"""Rows and columns of a mask where nothing moves, in every frame."""


@pytest.fixture(scope="session")
def truth(tmp_path_factory) -> Scene:
    """Masks are exact."""
    return make_scene(tmp_path_factory.mktemp("store"), (320, 213))[0]


@pytest.fixture(scope="session")
def scene(truth) -> Scene:
    """Object 1 is the ball, which the masks of frames 3 and 4 miss; object 2 is a false mask."""
    masks, objects = truth.dynamic.masks.copy(), truth.dynamic.masks.astype(np.uint16)
    masks[2:4], objects[2:4] = False, 0
    masks[:, FALSE[0], FALSE[1]], objects[:, FALSE[0], FALSE[1]] = True, 2
    score = np.full((len(truth), 8, 8), 0.25, np.float32)
    return replace(truth, dynamic=replace(truth.dynamic, masks=masks, objects=objects, score=score))


@pytest.fixture
def session(scene, tmp_path) -> Session:
    return open_session(scene, tmp_path)


def open_session(scene: Scene, dataset: Path) -> Session:
    return Session(scene, FolderStore(dataset, scene), dataset)


def no_following(scene: Scene) -> Callable[..., Mapping[int, np.ndarray]]:
    def follow(frame: int, region: np.ndarray, advance: Callable[[int], None]) -> Mapping[int, np.ndarray]:
        for _ in range(len(scene) - 1):
            advance(1)
        return {k: region for k in range(len(scene)) if k != frame}

    return follow


class Pretended:
    """Solving again that moves every camera a little, in no time."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.calls, self.solved = scene, [], None

    def waiting(self) -> Solved | None:
        return self.solved

    def solve(self, log: RunLog) -> Solved:
        self.calls.append("solve")
        with log.stage("bundle adjustment", 3) as advance:
            for _ in range(3):
                advance(1)
        after = self.scene.T_world_cam.copy()
        after[2, :3, 3] += 0.05
        self.solved = Solved(self.scene.T_world_cam, after, (Figure("Points", "10", "12"),), ("made by the test",))
        return self.solved

    def accept(self) -> Scene:
        self.calls.append("accept")
        self.solved = None
        return self.scene

    def go_back(self) -> None:
        self.calls.append("go back")
        self.solved = None


@pytest.fixture
def desk(scene, tmp_path) -> Desk:
    return make_desk(scene, tmp_path)


def make_desk(scene: Scene, dataset: Path, **helpers) -> Desk:
    given = {"follow": no_following, "remake": Pretended(scene)} | helpers
    return Desk(scene, Helpers(lambda scene: open_session(scene, dataset), **given))
