"""Similarities of space."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.similarity import Similarity, align_cameras, align_points, between, nearest_rotation
from tests.support.helpers import align_sim3


def random_similarity(rng: np.random.Generator) -> Similarity:
    return Similarity(
        float(rng.uniform(0.3, 3)), Rotation.random(random_state=int(rng.integers(1e6))).as_matrix(), rng.normal(size=3)
    )


def assert_same(a: Similarity, b: Similarity, **tolerance: float) -> None:
    for name in ("scale", "R", "t"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), **{"atol": 1e-9, "rtol": 0} | tolerance)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_composition_and_inverse(rng):
    a, b, x = random_similarity(rng), random_similarity(rng), rng.normal(size=(5, 3))
    np.testing.assert_allclose(a.after(b).points(x), a.points(b.points(x)), atol=1e-9)
    assert_same(a.after(a.inverse()), Similarity.identity())
    assert_same(a.inverse().after(a), Similarity.identity())


def test_cameras_see_the_moved_points_as_before(rng):
    a, T, x = random_similarity(rng), np.eye(4), rng.normal(size=3)
    T[:3, :3], T[:3, 3] = Rotation.random(random_state=1).as_matrix(), rng.normal(size=3)
    moved = a.cameras(T)
    local, local_moved = (np.linalg.inv(c) @ [*p, 1] for c, p in ((T, x), (moved, a.points(x))))
    np.testing.assert_allclose(local_moved[:3], a.scale * local[:3], atol=1e-9)


def test_points_give_their_similarity_back_and_agree_with_the_plain_formula(rng):
    truth, x = random_similarity(rng), rng.normal(size=(40, 3))
    assert_same(align_points(x, truth.points(x), np.ones(40)), truth)
    noisy = truth.points(x) + 0.1 * rng.normal(size=x.shape)
    found, naive = align_points(x, noisy, np.ones(40)), align_sim3(x, noisy)
    assert_same(found, Similarity(naive.scale, naive.R, naive.t))
    many = align_points(np.stack([x, 2 * x]), np.stack([noisy, noisy]), np.ones((2, 40)))
    np.testing.assert_allclose(many.scale, [found.scale, found.scale / 2])
    np.testing.assert_allclose(many.R, [found.R, found.R], atol=1e-9)


def test_points_without_weight_do_not_count(rng):
    truth, x = random_similarity(rng), rng.normal(size=(40, 3))
    y, weight = truth.points(x), np.ones(40)
    y[:5], weight[:5] = 100, 0
    assert_same(align_points(x, y, weight), truth)


def test_cameras_give_their_similarity_back(rng):
    truth, T = random_similarity(rng), np.tile(np.eye(4), (6, 1, 1))
    T[:, :3, :3], T[:, :3, 3] = Rotation.random(6, random_state=1).as_matrix(), rng.normal(size=(6, 3))
    assert_same(align_cameras(T, truth.cameras(T)), truth)


def test_nearest_rotation_is_never_a_mirror(rng):
    R = nearest_rotation(rng.normal(size=(20, 3, 3)))
    np.testing.assert_allclose(np.linalg.det(R), 1)
    np.testing.assert_allclose(nearest_rotation(R), R, atol=1e-9)


def test_part_of_the_way(rng):
    a, b, place = random_similarity(rng), random_similarity(rng), rng.normal(size=3)
    assert_same(between(a, b, 0.0, place), a)
    assert_same(between(a, b, 1.0, place), b)
    half = between(a, b, 0.5, place)
    assert half.scale == pytest.approx(np.sqrt(a.scale * b.scale))
    np.testing.assert_allclose(half.points(place), (a.points(place) + b.points(place)) / 2)
    turns = [Rotation.from_matrix(s.R.T @ half.R).magnitude() for s in (a, b)]
    assert turns[0] == pytest.approx(turns[1])
