"""Keypoints on the source images, away from what moves, and which frames show the same points."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..core.geometry import source_to_network
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import DynamicMasks, Frames, PixelMap
from ..frames.focal import FILM_DIAGONAL
from ..storage.files import read_png
from .learned import Learned
from .library import image_name, load_pycolmap, write_frames
from .matching import choose_pairs
from .model import FISHEYE, Correspondences, Lens, Lenses
from .sift import extract_sift

SIFT = "sift"
"""Value of --features."""
MAX_FEATURES = 3000
"""Keypoints per frame; COLMAP drops the smallest ones first."""
MAX_IMAGE_SIDE = 1600
"""Pixels of the longer side above which a frame is shrunk before SIFT (its keypoints are still in source pixels):
above, noise and blur make most of the small keypoints, and the larger ones are no sharper."""
MASK_GROWTH = 0.005
"""Share of the picture's longer side by which moving regions are grown; the radius of a keypoint comes on top."""
FISHEYE_MM = 24.0
"""Focal length that action cameras name, in millimetres on 35 mm film."""
MIN_MATCHES = 15
"""Verified matches below which two frames are taken as unrelated (COLMAP's default)."""
MATCH_ERROR = 4.0
"""Pixels of distance to the epipolar line above which a match is wrong (COLMAP's default)."""


@dataclass(frozen=True)
class Features:
    """Keypoints of every frame with their descriptors."""

    keypoints: tuple[np.ndarray, ...]
    """F arrays (K_f, 6) float32 as COLMAP keeps them: x, y in source pixels, then the affine shape."""
    descriptors: tuple[np.ndarray, ...]
    """F arrays (K_f, 128): uint8 of SIFT, float32 of ALIKED."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of every source image, of features that are matched by LightGlue; empty: SIFT."""

    @property
    def learned(self) -> bool:
        """Whether they are those of a network."""
        return bool(self.sizes)

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """Those of several clips, one after the other."""
        return cls(*(sum((getattr(part, f.name) for part in parts), ()) for f in fields(cls)))


def find_correspondences(
    clip: Frames | Scene,
    dynamic: DynamicMasks,
    log: RunLog,
    *,
    focal: float | None,
    seed: int,
    detected: Features | None = None,
    fisheye: Lens | None = None,
    kind: str = SIFT,
) -> Correspondences:
    """Verified matches between the frames of a clip on its static parts.

    Clips of up to :data:`~easi3r_ns.refine.matching.EXHAUSTIVE_FRAMES` frames are matched exhaustively, longer ones
    between neighbours in time and between frames that look alike. ``focal`` (source pixels) lets the matches be
    verified by an essential matrix instead of a fundamental matrix. ``detected``: what :func:`detect_features` found in
    these frames, where it is there already. ``fisheye``: the first guess of such a lens, along whose rays matches
    are verified: no fundamental matrix joins two fisheye pictures. ``kind``: as of :func:`detect_features`.

    Raises:
        MissingExtraError: pycolmap, or the networks, are not there.
    """
    features = static_features(detected or detect_features(clip, log, kind), dynamic, clip.pixel_map)
    pairs = choose_pairs(features.descriptors, seed, few=features.learned)
    pixel_map = clip.pixel_map
    guess = focal or default_focal(pixel_map.picture_wh)
    lens = fisheye or Lens.centred(pixel_map.source_wh, guess, pixel_map.principal_xy)
    return match_features(features, pairs, lens, log, has_focal=focal is not None or fisheye is not None, seed=seed)


def default_focal(source_wh: tuple[int, int], camera_model: str = "pinhole") -> float:
    """COLMAP's first guess, 1.2 times the longer side; of a fisheye lens the nominal 24 mm of action cameras."""
    return FISHEYE_MM * float(np.hypot(*source_wh)) / FILM_DIAGONAL if camera_model == FISHEYE else 1.2 * max(source_wh)


def detect_features(clip: Frames | Scene, log: RunLog, kind: str = SIFT, *, most: int = MAX_FEATURES) -> Features:
    """Features on every source image, whatever moves there.

    ``kind``: 'sift' or 'aliked', as ``--features``; ``most``: keypoints of SIFT each. Raises MissingExtraError.
    """
    if kind != SIFT:
        return _learned_features(clip, log)
    keypoints, descriptors = [], []
    with log.stage("features", len(clip)) as advance:
        for found, described in extract_sift(clip.source_paths, most, MAX_IMAGE_SIDE):
            keypoints.append(found)
            descriptors.append(described)
            advance(1)
    return Features(tuple(keypoints), tuple(descriptors))


def _learned_features(clip: Frames | Scene, log: RunLog) -> Features:
    network, keypoints, descriptors, sizes = Learned(), [], [], []
    with log.stage("features", len(clip)) as advance:
        for path in clip.source_paths:
            image = read_png(path)
            found, described = network.extract(image)
            keypoints.append(found)
            descriptors.append(described)
            sizes.append((image.shape[1], image.shape[0]))
            advance(1)
    return Features(tuple(keypoints), tuple(descriptors), tuple(sizes))


def static_features(detected: Features, dynamic: DynamicMasks, pixel_map: PixelMap) -> Features:
    """Without the keypoints on, or touching, what moves."""
    still = [on_static(rows, moving, pixel_map) for rows, moving in zip(detected.keypoints, dynamic.masks)]
    return replace(
        detected,
        keypoints=tuple(rows[kept] for rows, kept in zip(detected.keypoints, still)),
        descriptors=tuple(rows[kept] for rows, kept in zip(detected.descriptors, still)),
    )


def on_static(keypoints: np.ndarray, moving: np.ndarray, pixel_map: PixelMap) -> np.ndarray:
    """(K,) bool: keypoints whose disc keeps :data:`MASK_GROWTH` of the picture away from what moves.

    Args:
        keypoints: (K, 6) as in :class:`Features`.
        moving: (H, W) bool on the network grid.
    """
    if not moving.any():
        return np.ones(len(keypoints), dtype=bool)
    distance = distance_transform_edt(~moving)
    xy = source_to_network(keypoints[:, :2], pixel_map)
    # Source pixels outside the network's crop continue the nearest pixel inside, as the written masks do.
    column = np.clip(np.rint(xy[:, 0]), 0, moving.shape[1] - 1).astype(int)
    row = np.clip(np.rint(xy[:, 1]), 0, moving.shape[0] - 1).astype(int)
    radius = np.hypot(keypoints[:, 2], keypoints[:, 4]) * pixel_map.scale_xy[0]
    return distance[row, column] > MASK_GROWTH * max(moving.shape) + radius


def match_features(
    features: Features, pairs: np.ndarray, lens: Lens | Lenses, log: RunLog, *, has_focal: bool, seed: int
) -> Correspondences:
    """Match the descriptors of the given (P, 2) pairs of frames and keep what a two-view geometry explains."""
    pycolmap = load_pycolmap()
    with (
        log.stage("matching", len(pairs) if features.learned else None) as advance,
        tempfile.TemporaryDirectory(prefix="easi3r-") as folder,
    ):
        database = pycolmap.Database.open(Path(folder) / "database.db")
        write_frames(database, [k[:, :6] for k in features.keypoints], lens, "SIMPLE_RADIAL", has_focal)
        if features.learned:
            _write_learned(database, features, pairs, advance)
        for position, data in enumerate(() if features.learned else features.descriptors):
            kind = pycolmap.FeatureExtractorType.SIFT
            database.write_descriptors(position + 1, pycolmap.FeatureDescriptors(kind, data))
        database.close()
        listed = Path(folder) / "pairs.txt"
        listed.write_text("".join(f"{image_name(i)} {image_name(j)}\n" for i, j in pairs.tolist()), encoding="utf-8")
        verification = pycolmap.TwoViewGeometryOptions(min_num_inliers=MIN_MATCHES)
        verification.ransac.max_error = MATCH_ERROR
        # The draws of every pair start from this seed, so the number of threads does not matter here.
        verification.ransac.random_seed = seed % 2**31
        if features.learned:
            pycolmap.verify_matches(Path(folder) / "database.db", listed, verification)
        else:
            pycolmap.match_image_pairs(
                Path(folder) / "database.db",
                pycolmap.FeatureMatchingOptions(use_gpu=False),
                pycolmap.ImportedPairingOptions(match_list_path=listed),
                verification,
                pycolmap.Device.cpu,
            )
        database = pycolmap.Database.open(Path(folder) / "database.db")
        found, matches = _read_matches(database, pycolmap)
        database.close()
    return Correspondences(tuple(k[:, :2].astype(np.float64) for k in features.keypoints), found, matches)


def _write_learned(database: Any, features: Features, pairs: np.ndarray, advance: Callable[[int], None]) -> None:
    network = Learned()
    for i, j in pairs.tolist():
        points, described, sizes = features.keypoints, features.descriptors, features.sizes
        rows = network.match((points[i], points[j]), (described[i], described[j]), (sizes[i], sizes[j]))
        if len(rows) >= MIN_MATCHES:
            database.write_matches(i + 1, j + 1, rows.astype(np.uint32))
        advance(1)


def _read_matches(database: Any, pycolmap: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    ids, geometries = database.read_two_view_geometries()
    usable = {
        pycolmap.pair_id_to_image_pair(pair_id): np.asarray(geometry.inlier_matches, dtype=np.int64)
        for pair_id, geometry in zip(ids, geometries)
        if len(geometry.inlier_matches) >= MIN_MATCHES
        and geometry.config != pycolmap.TwoViewGeometryConfiguration.WATERMARK
    }
    ordered = sorted(usable)
    pairs = np.array(ordered, dtype=np.int64).reshape(-1, 2) - 1
    swapped = pairs[:, 0] > pairs[:, 1]
    if swapped.any():
        raise ValueError("COLMAP keeps a pair of images in the order of their ids")
    return pairs, tuple(usable[pair] for pair in ordered)
