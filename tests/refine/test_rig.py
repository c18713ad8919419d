"""Mapping of views that stand fixed to one another, on exact tracks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.rig import ViewRig
from easi3r_ns.frames.sphere import plan_views
from easi3r_ns.refine import rig as mapping
from easi3r_ns.refine.model import Correspondences, Lens

pytest.importorskip("pycolmap")
VIEWS, MOMENTS = 4, 5


def make_rig() -> tuple[ViewRig, Lens]:
    views = plan_views((1600, 800), FrameConfig(equirect_views=VIEWS), None)  # type: ignore[arg-type]
    view, moment = np.repeat(np.arange(VIEWS), MOMENTS), np.tile(np.arange(MOMENTS), VIEWS)
    return ViewRig(views.T_rig_view, views.focal, view, moment), Lens.centred((views.side, views.side), views.focal)


def seen(rig: ViewRig, lens: Lens, T_world_rig: np.ndarray, noise: float) -> Correspondences:
    """Points all around, seen by all views; matched between all images of different moments."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((700, 3)) * [4, 1.5, 4]
    points = points[np.linalg.norm(points, axis=1) > 2]
    keypoints, owners = [], []
    for view, moment in zip(rig.view, rig.moment):
        T = np.linalg.inv(T_world_rig[moment] @ rig.T_rig_view[view])
        local = points @ T[:3, :3].T + T[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            xy = local[:, :2] / local[:, 2:] * lens.focal + lens.principal_point
        inside = (local[:, 2] > 0.1) & (xy > 0).all(axis=1) & (xy < lens.width).all(axis=1)
        keypoints.append(xy[inside] + noise * rng.standard_normal((inside.sum(), 2)))
        owners.append(np.flatnonzero(inside))
    pairs, matches = [], []
    for i in range(len(rig)):
        for j in range(i + 1, len(rig)):
            _, a, b = np.intersect1d(owners[i], owners[j], return_indices=True)
            if rig.moment[i] != rig.moment[j] and len(a) >= 15:
                pairs.append((i, j))
                matches.append(np.stack([a, b], axis=1))
    return Correspondences(tuple(keypoints), np.array(pairs), tuple(matches))


def test_views_are_found_at_their_known_angles() -> None:
    rig, lens = make_rig()
    T = np.tile(np.eye(4), (MOMENTS, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("y", 20.0 * np.arange(MOMENTS)[:, None], degrees=True).as_matrix()
    T[:, :3, 3] = np.outer(np.arange(MOMENTS), [0.3, 0.02, 0.1]) + 0.05 * np.random.default_rng(1).standard_normal(
        (MOMENTS, 3)
    )
    told: list[int] = []
    model = mapping._mapped(seen(rig, lens, T, 0.3), rig, lens, 0, mapping.MIN_ANGLE, told.append)
    assert model is not None and model.registered.all() and told
    assert model.lens == lens and model.focals is None
    poses = rig.rig_poses(model.T_world_cam)
    by_moment = poses[np.argsort(rig.moment, kind="stable")].reshape(MOMENTS, VIEWS, 4, 4)
    np.testing.assert_allclose(by_moment, by_moment[:, :1].repeat(VIEWS, axis=1), atol=1e-9)
    found, true = by_moment[:, 0], T
    relative = np.linalg.inv(found[0]) @ found
    expected = np.linalg.inv(true[0]) @ true
    turned = Rotation.from_matrix(np.swapaxes(expected[:, :3, :3], 1, 2) @ relative[:, :3, :3]).magnitude()
    assert np.degrees(turned).max() < 0.1
    scale = np.linalg.norm(expected[-1, :3, 3]) / np.linalg.norm(relative[-1, :3, 3])
    assert np.abs(scale * relative[:, :3, 3] - expected[:, :3, 3]).max() < 0.01


def test_pairs_are_of_different_moments_and_of_views_that_meet() -> None:
    views = plan_views((1600, 800), FrameConfig(equirect_views=8), None)  # type: ignore[arg-type]
    view, moment = np.repeat(np.arange(8), 20), np.tile(np.arange(20), 8)
    rig = ViewRig(views.T_rig_view, views.focal, view, moment)
    likeness = np.zeros((160, 160))
    likeness[0, 5 * 20 + 15] = 1.0
    pairs = mapping.rig_pairs(rig, likeness)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)
    apart = np.abs(moment[pairs[:, 0]] - moment[pairs[:, 1]])
    assert (apart > 0).all()
    turn = np.abs(view[pairs[:, 0]] - view[pairs[:, 1]])
    turn = np.minimum(turn, 8 - turn)
    assert set(turn[apart == 1].tolist()) == {0, 1}
    assert (apart == 1).sum() == 19 * 8 * 3
    assert [0, 115] in pairs.tolist()
