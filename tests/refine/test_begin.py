"""The pair with which mapping begins: much parallax, and no search by COLMAP where it serves."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.core.config import RefineConfig
from easi3r_ns.refine import mapping
from easi3r_ns.refine.begin import LIMITS, begin_at_own_pair, best_pairs
from easi3r_ns.refine.mapping import DATABASE, map_incrementally, mapping_options
from easi3r_ns.refine.model import Correspondences, Lens
from tests.support.align_scene import trajectory_errors
from tests.support.refine_clip import Tracks, make_tracks, walk_then_pan

LENS = Lens.centred((640, 480), 600)


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return make_tracks()


def mapped(found: Correspondences):
    return map_incrementally(found, LENS, RefineConfig(), fixed_focal=False, seed=0)


def test_pairs_that_only_turn_come_last():
    tracks = walk_then_pan(noise=0.0)
    order = best_pairs(tracks.found)
    travelled = np.linalg.norm(tracks.T_world_cam[order[:, 0], :3, 3] - tracks.T_world_cam[order[:, 1], :3, 3], axis=1)
    assert np.median(travelled[:10]) > 5 * np.median(travelled[-10:]) > 0
    # Few matches are left between frames that look apart.
    assert {tuple(pair) for pair in order.tolist()} < {tuple(pair) for pair in tracks.found.pairs.tolist()}


def test_no_pair_of_nothing(tracks, tmp_path):
    nothing = Correspondences(tracks.found.keypoints, np.empty((0, 2), dtype=np.int64), ())
    assert len(best_pairs(nothing)) == 0
    mapping._write_database(tmp_path / DATABASE, nothing, LENS, False)
    options = mapping_options(False, 0, 1.5)
    assert not begin_at_own_pair(nothing, tmp_path / DATABASE, options) and options.init_image_id1 == -1


def test_the_options_get_a_pair_and_the_limits_that_it_keeps(tracks, tmp_path):
    """With the limits of COLMAP it would try a pair of little parallax again and again before it lowers them."""
    for case, limits in ((make_tracks(travel=4.0), LIMITS[0]), (tracks, LIMITS[1])):
        folder = tmp_path / str(limits[0])
        folder.mkdir()
        mapping._write_database(folder / DATABASE, case.found, LENS, False)
        options = mapping_options(False, 0, 1.5)
        assert (options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle) == LIMITS[0], "COLMAP's own"
        assert begin_at_own_pair(case.found, folder / DATABASE, options)
        pair = [options.init_image_id1 - 1, options.init_image_id2 - 1]
        assert pair in best_pairs(case.found)[:12].tolist() and not options.multiple_models
        assert (options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle) == limits


def test_cameras_are_as_exact_as_from_the_pair_that_colmap_finds(tracks, monkeypatch):
    ours = mapped(tracks.found)
    monkeypatch.setattr(mapping, "begin_at_own_pair", lambda *args: False)
    theirs = mapped(tracks.found)
    assert ours.registered.all() and theirs.registered.all()
    errors = [trajectory_errors(model.T_world_cam, tracks.T_world_cam)["ate"] for model in (ours, theirs)]
    assert errors[0] < 1.2 * errors[1]


def test_a_pair_that_places_few_frames_gives_way(tracks, monkeypatch):
    """A pair of frames that share nothing: COLMAP finds its own."""
    asked = []

    def no_pair(found, database, options) -> bool:
        options.init_image_id1, options.init_image_id2, options.multiple_models = 1, 1, False
        asked.append(found)
        return True

    monkeypatch.setattr(mapping, "begin_at_own_pair", no_pair)
    assert mapped(tracks.found).registered.all() and asked
