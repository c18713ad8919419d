"""Values that do not fit together are refused where they are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.geometry import intrinsics_to_source
from easi3r_ns.core.scene import CameraUncertainty, Scene, SparsePoints
from easi3r_ns.core.types import DynamicMasks, PairGraph, PixelMap


@pytest.fixture
def scene() -> Scene:
    """Two frames of 320x214, resized to 128x86 (which rounds) and cropped to 128x80."""
    return Scene(
        images=np.zeros((2, 80, 128, 3), np.uint8),
        T_world_cam=np.tile(np.eye(4), (2, 1, 1)),
        focals=np.array([100.0, 110.0]),
        principal_point=np.array([63.5, 39.5]),
        depth=np.ones((2, 80, 128), np.float32),
        confidence=np.ones((2, 80, 128), np.float32),
        dynamic=DynamicMasks(np.zeros((2, 80, 128), bool), np.zeros((2, 5, 8), np.float32), 0.5),
        pixel_map=PixelMap((320, 214), (128, 86), (0, 3, 128, 83)),
        times=np.arange(2.0),
        indices=np.arange(2),
        names=("clip.mp4",) * 2,
        source_paths=(Path("a.png"), Path("b.png")),
    )


def test_square_source_pixels_have_two_focal_lengths_on_a_rounded_grid(scene):
    fl_x, fl_y, _, _ = intrinsics_to_source(scene.focals[0], scene.principal_point, scene.pixel_map)
    assert fl_x == fl_y == pytest.approx(250)
    np.testing.assert_allclose(scene.focals_xy[0], [250 * 128 / 320, 250 * 86 / 214])


@pytest.mark.parametrize(
    "change",
    [
        {"focals": np.array([100.0, -1.0])},
        {"focals": np.ones(3)},
        {"depth": np.full((2, 80, 128), np.nan, np.float32)},
        {"depth": np.ones((2, 80, 127), np.float32)},
        {"T_world_cam": np.full((2, 4, 4), np.inf)},
        {"times": np.arange(3.0)},
        {"contradicted": np.zeros((1, 80, 128), bool)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_scenes_that_make_no_sense_are_refused(scene, change):
    with pytest.raises(ValueError, match=next(iter(change)).rstrip("s")):
        replace(scene, **change)


@pytest.mark.parametrize(
    "edges, word",
    [([(0, 1)], "symmetric"), ([(0, 0)], "itself"), ([(0, 5), (5, 0)], "not there"), ([(0, 1), (0, 1)], "twice")],
)
def test_graphs_that_make_no_sense_are_refused(edges, word):
    with pytest.raises(ValueError, match=word):
        PairGraph(np.array(edges), 3)


def test_sparse_points_and_lens_are_checked(scene):
    sparse = SparsePoints(
        points=np.zeros((2, 3)),
        colors=np.zeros((2, 3), np.uint8),
        errors=np.zeros(2),
        point_index=np.array([0, 1, 1]),
        frame_index=np.array([0, 0, len(scene) - 1]),
        pixels=np.zeros((3, 2)),
    )
    assert replace(scene, sparse=sparse).sparse is sparse
    with pytest.raises(ValueError, match="frame that is not there"):
        replace(scene, sparse=replace(sparse, frame_index=np.array([0, 0, len(scene)])))
    with pytest.raises(ValueError, match="names no point"):
        replace(sparse, point_index=np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="distortion"):
        replace(scene, distortion=(np.nan, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="pose_sources"):
        replace(scene, pose_sources=("network",) * (len(scene) + 1))


def test_uncertainty_is_checked(scene):
    two = np.array([0.1, np.inf])
    uncertainty = CameraUncertainty(two, two, two, np.array([np.nan, 1.0]))
    assert replace(scene, uncertainty=uncertainty).uncertainty is uncertainty and len(uncertainty) == 2
    with pytest.raises(ValueError, match="rotation_deg is negative or NaN"):
        replace(uncertainty, rotation_deg=np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="focal has shape"):
        replace(uncertainty, focal=np.zeros(3))
    with pytest.raises(ValueError, match="does not fit"):
        one = np.zeros(1)
        replace(scene, uncertainty=CameraUncertainty(one, one, one, one))
