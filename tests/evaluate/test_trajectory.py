"""Camera errors: known answers, a slow twin without evo, invariance to similarities, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.errors import MissingExtraError
from easi3r_ns.evaluate.trajectory import DegeneratePath, camera_drift, compare_paths, is_fixed
from tests.support.helpers import align_sim3

pytest.importorskip("evo", reason="pip install 'easi3r-ns[eval]' to test the scores of cameras")


def walk(seed: int = 0, frames: int = 12) -> np.ndarray:
    """(F, 4, 4) a smooth path that turns."""
    rs = np.random.RandomState(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rs.normal(0, 0.1, (frames, 3)), axis=0)).as_matrix()
    poses[:, :3, 3] = np.cumsum(rs.normal(0, 0.3, (frames, 3)), axis=0)
    return poses


def shaken(poses: np.ndarray, seed: int, metres: float, radians: float) -> np.ndarray:
    rs, result = np.random.RandomState(seed), poses.copy()
    result[:, :3, 3] += rs.normal(0, metres, (len(poses), 3))
    result[:, :3, :3] = Rotation.from_rotvec(rs.normal(0, radians, (len(poses), 3))).as_matrix() @ poses[:, :3, :3]
    return result


def moved(poses: np.ndarray, scale: float = 0.37) -> np.ndarray:
    """The same path in another world of another scale."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix(), [3.0, -2.0, 5.0]
    result = T @ poses
    result[:, :3, 3] *= scale
    return result


def errors_naive(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """ATE, RPE translation and RPE rotation, one frame after the other."""
    fit = align_sim3(estimate[:, :3, 3], truth[:, :3, 3])
    aligned = []
    for pose in estimate:
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = fit.R @ pose[:3, :3], fit.scale * fit.R @ pose[:3, 3] + fit.t
        aligned.append(T)
    ate = np.sqrt(np.mean([np.sum((a[:3, 3] - t[:3, 3]) ** 2) for a, t in zip(aligned, truth, strict=True)]))
    steps, angles = [], []
    for k in range(len(truth) - 1):
        true_step = np.linalg.inv(truth[k]) @ truth[k + 1]
        step = np.linalg.inv(aligned[k]) @ aligned[k + 1]
        error = np.linalg.inv(true_step) @ step
        steps.append(np.sum(error[:3, 3] ** 2))
        angles.append(np.degrees(np.linalg.norm(Rotation.from_matrix(error[:3, :3]).as_rotvec())) ** 2)
    return float(ate), float(np.sqrt(np.mean(steps))), float(np.sqrt(np.mean(angles)))


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_slow_twin(seed: int) -> None:
    truth = walk(seed)
    estimate = moved(shaken(truth, seed + 50, 0.05, 0.02))
    errors = compare_paths(estimate, truth)
    expected = errors_naive(estimate, truth)
    np.testing.assert_allclose((errors.ate, errors.rpe_translation, errors.rpe_rotation_deg), expected, rtol=1e-6)
    assert errors.ate > 0.01 and errors.rpe_rotation_deg > 0.1


def test_the_same_path_in_another_world_has_no_error() -> None:
    truth = walk()
    errors = compare_paths(moved(truth, 0.37), truth)
    np.testing.assert_allclose((errors.ate, errors.rpe_translation, errors.rpe_rotation_deg), 0, atol=1e-5)
    assert errors.scale == pytest.approx(1 / 0.37) and errors.num_frames == 12
    assert errors.path_length == pytest.approx(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum())


def test_rotations_with_few_digits_are_no_obstacle() -> None:
    truth = walk()
    errors = compare_paths(truth, np.round(truth, 4))
    assert errors.ate < 1e-4 and errors.rpe_rotation_deg < 0.02


def test_known_answer() -> None:
    """Corners of a square, two opposite ones lifted by h, the others lowered: no similarity helps, so the ATE is h."""
    truth = np.tile(np.eye(4), (4, 1, 1))
    truth[:, :2, 3] = [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    estimate = truth.copy()
    estimate[:, 2, 3] = [0.1, -0.1, 0.1, -0.1]
    errors = compare_paths(estimate, truth)
    # Umeyama's scale is trace(cov) / var = 2 / 2.01; what is left in the plane and above it:
    scale = 2 / 2.01
    assert errors.scale == pytest.approx(scale)
    assert errors.ate == pytest.approx(np.sqrt(2 * (1 - scale) ** 2 + (0.1 * scale) ** 2))
    assert errors.rpe_rotation_deg == pytest.approx(0, abs=1e-5) and errors.path_length == pytest.approx(6)


def test_turned_cameras_cost_rotation_only() -> None:
    truth, estimate = walk(), walk()
    estimate[5, :3, :3] = Rotation.from_rotvec([0, np.radians(6), 0]).as_matrix() @ estimate[5, :3, :3]
    errors = compare_paths(estimate, truth)
    assert errors.ate == pytest.approx(0, abs=1e-9)
    # Two of the eleven steps end or start at the turned frame.
    assert errors.rpe_rotation_deg == pytest.approx(6 * np.sqrt(2 / 11), rel=1e-6)


def line(frames: int = 6) -> np.ndarray:
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, 3] = np.arange(frames)[:, None] * np.array([0.3, 0.1, -0.2]) + 0.123
    return poses


@pytest.mark.parametrize("poses", [np.tile(np.eye(4), (6, 1, 1)), line(), walk(frames=12)[:2]])
def test_degenerate_paths_are_refused_on_either_side(poses: np.ndarray) -> None:
    other = walk(frames=len(poses))
    with pytest.raises(DegeneratePath, match="the true camera path|at least 3"):
        compare_paths(other, poses)
    with pytest.raises(DegeneratePath, match="the estimated camera path|at least 3"):
        compare_paths(poses, other)


def test_nan_is_refused_and_shapes_must_agree() -> None:
    broken = walk()
    broken[3, 0, 0] = np.nan
    with pytest.raises(DegeneratePath, match="NaN"):
        compare_paths(broken, walk())
    with pytest.raises(ValueError, match="shape"):
        compare_paths(walk(frames=5), walk(frames=6))


def test_without_evo_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evo", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[eval\]"):
        compare_paths(walk(), walk())


def test_drift_known_answer() -> None:
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[1, 0, 3], poses[3, 0, 3] = -0.3, 0.5
    poses[2, :3, :3] = Rotation.from_rotvec([0, 0, np.radians(2)]).as_matrix()
    poses[4, :3, :3] = Rotation.from_rotvec([0, 0, np.radians(-1.5)]).as_matrix()
    drift = camera_drift(poses, typical_depth=4.0)
    assert drift.translation == pytest.approx(0.8) and drift.relative_translation == pytest.approx(0.2)
    assert drift.rotation_deg == pytest.approx(3.5) and drift.num_frames == 5
    assert camera_drift(poses, None).relative_translation is None


def test_a_fixed_camera_has_no_drift() -> None:
    poses = np.tile(walk()[4], (7, 1, 1))
    drift = camera_drift(poses, 2.0)
    assert drift.translation == 0 and drift.rotation_deg == pytest.approx(0, abs=1e-5)
    assert is_fixed(poses) and not is_fixed(walk())
