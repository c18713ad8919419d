"""Pose graph of the windows of a clip: least squares over the similarities measured between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import lil_matrix
from scipy.spatial.transform import Rotation

from ...core.similarity import Similarity

DIMENSIONS = 7
"""Unknowns of a similarity: log-scale, rotation vector, translation."""
WORST_LOOP = 0.1
"""A loop that the solution violates by more than this (radians, log-scale, units of the depth) is rejected."""


@dataclass(frozen=True)
class Link:
    """One measured similarity between the worlds of two windows."""

    first: int
    second: int
    similarity: Similarity
    """From the world of window ``second`` to that of window ``first``."""
    sigma: float
    """Expected error, the same number for radians, log-scale and units of the depth."""
    place: np.ndarray
    """(3,) point near which it was measured, in the world of ``second``."""
    unit: float
    """Median depth there, in the units of ``second``."""
    frames: tuple[int, int] | None = None
    """The two frames of the clip that close a loop; None where the windows overlap."""
    residual: float = 0.0
    """Median distance between the matched points after ``similarity``, in units of the depth."""

    @property
    def is_loop(self) -> bool:
        """Whether it connects windows that are far apart in time."""
        return self.frames is not None


def chain_overlaps(count: int, links: list[Link]) -> list[Similarity | None]:
    """Per window the similarity from its world to that of window 0, along the most exact overlaps.

    None where no chain of overlaps leads to window 0. ``count``: of the windows; loops among the links are ignored.
    """
    placed: list[Similarity | None] = [None] * count
    placed[0] = Similarity.identity()
    ranked = sorted((link for link in links if not link.is_loop), key=lambda link: link.sigma)
    while True:
        for link in ranked:
            first, second = placed[link.first], placed[link.second]
            if first is not None and second is None:
                placed[link.second] = first.after(link.similarity)
                break
            if second is not None and first is None:
                placed[link.first] = second.after(link.similarity.inverse())
                break
        else:
            return placed


def solve_pose_graph(start: list[Similarity], links: list[Link]) -> tuple[list[Similarity], list[Link]]:
    """The similarities of all windows to the world of window 0 that fit all links best, and the rejected loops.

    ``start``: from :func:`chain_overlaps`. A loop that contradicts the other links (:data:`WORST_LOOP`) is removed, the
    worst one first, and the graph is solved again.
    """
    links = list(links)
    refused: list[Link] = []
    while True:
        worlds = _solve(start, links)
        errors = [_error(worlds, link) if link.is_loop else 0.0 for link in links]
        worst = int(np.argmax(errors)) if errors else 0
        if not errors or errors[worst] <= WORST_LOOP:
            return worlds, refused
        refused.append(links.pop(worst))


def _error(worlds: list[Similarity], link: Link) -> float:
    """The largest of a link's residuals in scale, rotation and shift."""
    residual = residuals(_stacked(worlds), [link])[0]
    return float(max(abs(residual[0]), np.linalg.norm(residual[1:4]), np.linalg.norm(residual[4:])))


def _solve(start: list[Similarity], links: list[Link]) -> list[Similarity]:
    if len(start) == 1 or not links:
        return list(start)
    base = _stacked(start)
    sigma = np.array([link.sigma for link in links])[:, None]

    def cost(x: np.ndarray) -> np.ndarray:
        weighted: np.ndarray = residuals(_moved(base, x), links) / sigma
        return weighted.ravel()

    sparsity = lil_matrix((DIMENSIONS * len(links), DIMENSIONS * (len(start) - 1)), dtype=int)
    for row, link in enumerate(links):
        for window in (link.first, link.second):
            if window > 0:
                columns = slice(DIMENSIONS * (window - 1), DIMENSIONS * window)
                sparsity[DIMENSIONS * row : DIMENSIONS * (row + 1), columns] = 1
    found = least_squares(cost, np.zeros(DIMENSIONS * (len(start) - 1)), jac_sparsity=sparsity, x_scale="jac")
    scale, R, t = _moved(base, found.x)
    return [Similarity(float(s), r, v) for s, r, v in zip(scale, R, t)]


def residuals(worlds: tuple[np.ndarray, np.ndarray, np.ndarray], links: list[Link]) -> np.ndarray:
    """(L, 7) residuals of the links for ``worlds``: scales (K,), rotations (K, 3, 3), translations (K, 3).

    Log-scale, rotation vector, and shift of the link's place in units of its depth, in the world of the second window.
    """
    scale, R, t = worlds
    a, b = (np.array([getattr(link, name) for link in links]) for name in ("first", "second"))
    z = [link.similarity for link in links]
    z_scale, z_R, z_t = np.array([s.scale for s in z]), np.stack([s.R for s in z]), np.stack([s.t for s in z])
    place, unit = np.stack([link.place for link in links]), np.array([link.unit for link in links])
    # second -> world -> first -> second, which a perfect link makes the identity.
    in_world = scale[b, None] * _apply(R[b], place) + t[b]
    in_first = _apply(R[a].transpose(0, 2, 1), in_world - t[a]) / scale[a, None]
    back = _apply(z_R.transpose(0, 2, 1), in_first - z_t) / z_scale[:, None]
    turn = z_R.transpose(0, 2, 1) @ R[a].transpose(0, 2, 1) @ R[b]
    log_scale = np.log(scale[b] / scale[a] / z_scale)
    return np.column_stack([log_scale, Rotation.from_matrix(turn).as_rotvec(), (back - place) / unit[:, None]])


def _apply(R: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3, 3) rotations of (N, 3) points."""
    turned: np.ndarray = R @ points[..., None]
    return turned[..., 0]


def _stacked(worlds: list[Similarity]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([s.scale for s in worlds]), np.stack([s.R for s in worlds]), np.stack([s.t for s in worlds])


def _moved(base: tuple[np.ndarray, np.ndarray, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The worlds after small changes (7 (K - 1),) of all but the first, each in the coordinates of its window."""
    scale, R, t = base
    change = np.concatenate([np.zeros((1, DIMENSIONS)), x.reshape(-1, DIMENSIONS)])
    turned = R @ Rotation.from_rotvec(change[:, 1:4]).as_matrix()
    return scale * np.exp(change[:, 0]), turned, t + scale[:, None] * _apply(R, change[:, 4:])
