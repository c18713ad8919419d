"""The pair of frames with which incremental mapping begins.

COLMAP looks for it itself: it estimates the relative pose of pair after pair until one has the parallax of its limits,
and where none has, it lowers a limit and estimates them all again. In a clip from one hand few pairs reach the first
limits, so this search takes about as long as mapping itself. Here the pairs are ordered by what they show already, and
only the best are estimated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .library import load_pycolmap
from .model import Correspondences

CANDIDATES = 12
"""Pairs that are estimated."""
LIMITS = (100, 16.0), (50, 8.0), (25, 4.0)
"""Least matches, and least degrees of parallax, of the pair: COLMAP's own, and those to which it lowers them."""
SAMPLES = 200
"""Matches of a pair that tell its parallax."""
ENOUGH = 100
"""Matches with which a pair is a candidate; in a clip without such a pair, those of the better half."""


def begin_at_own_pair(found: Correspondences, database: Path, options: Any) -> bool:
    """Have mapping begin at a pair from which the clip can be mapped; False where no candidate is good.

    Args:
        database: holds the correspondences.
        options: pycolmap's ``IncrementalPipelineOptions`` of the mapping. They get the pair, the limits that it keeps,
            and that one model is made.
    """
    pycolmap = load_pycolmap()
    opened = pycolmap.Database.open(database)
    mapper = pycolmap.IncrementalMapper(pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions()))
    opened.close()
    mapper.begin_reconstruction(pycolmap.Reconstruction())
    try:
        candidates = (best_pairs(found)[:CANDIDATES] + 1).tolist()
        for matches, angle in LIMITS:
            limits = {**options.mapper.todict(), "init_min_num_inliers": matches, "init_min_tri_angle": angle}
            checked = pycolmap.IncrementalMapperOptions(limits)
            for pair in candidates:
                if mapper.estimate_initial_two_view_geometry(checked, *pair) is not None:
                    options.init_image_id1, options.init_image_id2 = pair
                    options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle = matches, angle
                    options.multiple_models = False
                    return True
    finally:
        mapper.end_reconstruction(True)
    return False


def best_pairs(found: Correspondences) -> np.ndarray:
    """(N, 2) pairs with more matches than most, those with the largest parallax first.

    Parallax: the median distance, in pixels, by which the matches miss the homography that fits them best. A camera
    that turns without moving leaves none.
    """
    counts = np.array([len(rows) for rows in found.matches])
    if not len(counts):
        return np.empty((0, 2), dtype=np.int64)
    least = np.median(counts)
    if counts.max() >= ENOUGH:
        least = max(least, ENOUGH)
    enough = np.flatnonzero(counts >= max(least, 4))
    parallax = [_parallax(found, int(pair)) for pair in enough]
    return found.pairs[enough[np.argsort(np.negative(parallax), kind="stable")]]


def _parallax(found: Correspondences, pair: int) -> float:
    rows = found.matches[pair]
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLES)).astype(int)]
    start, end = (found.keypoints[frame][rows[:, k]] for k, frame in enumerate(found.pairs[pair]))
    H, _ = cv2.findHomography(start, end, 0)
    if H is None:
        return 0.0
    seen = cv2.perspectiveTransform(start[None], H)[0]
    return float(np.median(np.linalg.norm(seen - end, axis=1)))
