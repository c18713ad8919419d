"""Camera paths against the truth, through evo (GPL-3: only in the extra ``eval``, imported only here).

ATE: RMSE of the camera centres after a Sim(3) alignment (Umeyama 1991). RPE: relative motion over one frame, all pairs,
RMSE, after the same alignment. Both as in arXiv:2503.24391, Table 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import AlignmentError, MissingExtraError
from ..core.install import install_extra

STRAIGHT = 1e-6
"""A path is straight when its second largest extent is below this share of the largest; a Sim(3) alignment to a
straight path is not unique."""


class DegeneratePath(AlignmentError):
    """A camera path that no similarity can be aligned to: it has too few frames, stands still or is straight."""


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of F cameras, in the truth's unit of length."""

    ate: float
    """RMSE of the aligned camera centres."""
    rpe_translation: float
    """RMSE of the translation error of the relative motion from frame to frame."""
    rpe_rotation_deg: float
    """RMSE of the rotation error of that relative motion, in degrees."""
    path_length: float
    """Length of the true path through the compared frames."""
    scale: float
    """Units of the truth per unit of the estimate."""
    num_frames: int


@dataclass(frozen=True)
class Drift:
    """Largest differences between the estimated cameras of a clip whose camera stood still."""

    translation: float
    """Largest distance between two camera centres, in scene units."""
    relative_translation: float | None
    """``translation`` as a share of the typical depth of the scene; None where the scene has no depth."""
    rotation_deg: float
    """Largest rotation between two cameras in degrees."""
    num_frames: int


def compare_paths(estimate: np.ndarray, truth: np.ndarray) -> TrajectoryErrors:
    """Errors of (F, 4, 4) camera-to-world matrices against the (F, 4, 4) true ones, frame by frame.

    Both with OpenCV axes; the worlds may differ by any similarity. Rotations that were written with few digits are made
    orthonormal first.

    Raises:
        DegeneratePath: either path is too short, static or straight.
        MissingExtraError: evo is not installed.
    """
    if estimate.shape != truth.shape or estimate.shape[1:] != (4, 4):
        raise ValueError(f"paths of shape {estimate.shape} and {truth.shape}: give (F, 4, 4) twice")
    _refuse_degenerate(truth, "the true camera path")
    _refuse_degenerate(estimate, "the estimated camera path")
    evo = load_evo()
    reference, aligned = (evo["trajectory"].PosePath3D(poses_se3=_orthonormal(T)) for T in (truth, estimate))
    metrics = evo["metrics"]
    relations, rmse = metrics.PoseRelation, metrics.StatisticsType.rmse

    def measure(metric: Any) -> float:
        metric.process_data((reference, aligned))
        return float(metric.get_statistic(rmse))

    step = {"delta": 1, "delta_unit": metrics.Unit.frames, "all_pairs": True}
    try:
        _, _, scale = aligned.align(reference, correct_scale=True)
        return TrajectoryErrors(
            ate=measure(metrics.APE(relations.translation_part)),
            rpe_translation=measure(metrics.RPE(relations.translation_part, **step)),
            rpe_rotation_deg=measure(metrics.RPE(relations.rotation_angle_deg, **step)),
            path_length=float(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum()),
            scale=float(scale),
            num_frames=len(truth),
        )
    except evo["exception"] as error:
        raise DegeneratePath(f"the camera paths cannot be compared: {error}") from error


def _orthonormal(T_world_cam: np.ndarray) -> list[np.ndarray]:
    """(F, 4, 4) with every rotation replaced by the nearest exact one: evo refuses matrices rounded to six digits."""
    result = T_world_cam.astype(float)
    U, _, Vt = np.linalg.svd(result[:, :3, :3])
    result[:, :3, :3] = U @ Vt
    return list(result)


def is_fixed(T_world_cam: np.ndarray, tolerance: float = 1e-9) -> bool:
    """Whether all (F, 4, 4) cameras are the same one, up to ``tolerance`` in every entry."""
    return bool(np.abs(T_world_cam - T_world_cam[:1]).max() <= tolerance)


def camera_drift(T_world_cam: np.ndarray, typical_depth: float | None) -> Drift:
    """Drift of (F, 4, 4) camera-to-world matrices that should all be equal; ``typical_depth`` in scene units."""
    centres, R = T_world_cam[:, :3, 3], T_world_cam[:, :3, :3]
    translation = float(np.linalg.norm(centres[:, None] - centres[None], axis=-1).max())
    # |R_i - R_j| = 2 sqrt(2) sin(angle / 2): exact for small angles too, which the arc cosine of the trace is not.
    chord = np.linalg.norm((R[:, None] - R[None]).reshape(len(R), len(R), 9), axis=-1).max()
    rotation = float(np.degrees(2 * np.arcsin(min(chord / np.sqrt(8), 1.0))))
    relative = None if typical_depth is None else translation / typical_depth
    return Drift(translation, relative, rotation, len(T_world_cam))


def _refuse_degenerate(T_world_cam: np.ndarray, what: str) -> None:
    if len(T_world_cam) < 3:
        raise DegeneratePath(f"{what} has {len(T_world_cam)} frames to compare: at least 3 are needed")
    centres = T_world_cam[:, :3, 3]
    if not np.isfinite(T_world_cam).all():
        raise DegeneratePath(f"{what} holds NaN or infinity")
    extents = np.linalg.svd(centres - centres.mean(axis=0), compute_uv=False)
    if extents[0] <= 1e-12 * max(1.0, float(np.abs(centres).max())):
        raise DegeneratePath(f"{what} stands still and cannot be aligned: name the clip in --fixed-camera instead")
    if extents[1] <= STRAIGHT * extents[0]:
        raise DegeneratePath(f"{what} is a straight line: no similarity can be aligned to it")


def load_evo() -> dict[str, Any]:
    """The parts of evo that are used. Raises MissingExtraError when it is not installed."""
    try:
        from evo import EvoException
        from evo.core import metrics, trajectory
    except ImportError as error:
        raise MissingExtraError(
            f"scoring cameras needs evo (GPL-3), which is not installed: {install_extra('eval')}"
        ) from error
    return {"metrics": metrics, "trajectory": trajectory, "exception": EvoException}
