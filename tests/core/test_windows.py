"""How a clip is cut into windows."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.pairs import attach_frames, make_pairs
from easi3r_ns.core.windows import OVERLAP_SHARE, centrality, cut_windows, subgraph

GRAPH = "swinstride-5-noncyclic"


@pytest.mark.parametrize(("num_frames", "size"), [(60, 20), (61, 20), (50, 49), (200, 50), (1000, 64), (30, 16)])
def test_windows_hold_all_frames_and_all_pairs(num_frames, size):
    graph = make_pairs(GRAPH, num_frames)
    plan = cut_windows(graph, size)
    assert plan.left_out == 0
    assert {len(window.frames) for window in plan.windows} == {size}
    np.testing.assert_array_equal(np.unique(np.concatenate([w.frames for w in plan.windows])), np.arange(num_frames))
    own = np.concatenate([window.own for window in plan.windows])
    np.testing.assert_array_equal(np.sort(own), np.arange(len(graph)), "every pair is decoded exactly once")
    for window, following in zip(plan.windows, plan.windows[1:]):
        shared = np.intersect1d(window.frames, following.frames)
        assert len(shared) >= max(OVERLAP_SHARE * size, 9), "the farthest pair spans 9 frames"
        assert following.frames[0] > window.frames[0]


def test_rows_of_a_window_are_the_pairs_inside_it():
    graph = make_pairs(GRAPH, 40)
    for window in cut_windows(graph, 20).windows:
        inside = np.isin(graph.edges, window.frames).all(axis=1)
        np.testing.assert_array_equal(window.rows, np.flatnonzero(inside))
        assert np.isin(window.own, window.rows).all()


def test_a_clip_that_fits_is_one_window():
    plan = cut_windows(make_pairs(GRAPH, 12), 12)
    assert len(plan) == 1 and len(plan.windows[0].own) == len(make_pairs(GRAPH, 12))


def test_subgraph_keeps_the_order_of_its_rows():
    graph = make_pairs(GRAPH, 40)
    window = cut_windows(graph, 20).windows[1]
    frames, local = subgraph(graph, window.own)
    np.testing.assert_array_equal(frames[local.edges], graph.edges[window.own])
    assert local.num_frames == len(frames) == local.edges.max() + 1


def test_pairs_that_no_window_holds_are_counted():
    graph = make_pairs("swin-3", 40)
    plan = cut_windows(graph, 16)
    assert plan.left_out == 12, "3 + 2 + 1 pairs around the end of the clip, in both orders"
    assert cut_windows(make_pairs("complete", 30), 15).left_out > 0


def test_a_star_of_pairs_is_refused():
    with pytest.raises(InputError, match="oneref-0: its pairs do not join the 10 frames"):
        cut_windows(make_pairs("oneref-0", 30), 10)


@pytest.mark.parametrize("num_views", [1, 2, 7, 40])
def test_evaluation_views_get_windows_of_their_own(num_views):
    graph = attach_frames(make_pairs(GRAPH, 60), num_views)
    plan = cut_windows(graph, 20, num_views)
    assert plan.left_out == 0
    own = np.concatenate([window.own for window in plan.windows])
    np.testing.assert_array_equal(np.sort(own), np.arange(len(graph)))
    assert all(window.frames.max() < 60 for window in plan.of_clip)
    attached = [window for window in plan.windows if window.attached]
    assert attached and all(len(window.frames) <= 20 for window in attached)
    views = np.unique(np.concatenate([window.frames for window in attached]))
    np.testing.assert_array_equal(views[views >= 60], np.arange(60, 60 + num_views))


def test_centrality_grows_inwards():
    window = cut_windows(make_pairs(GRAPH, 40), 20).windows[0]
    np.testing.assert_array_equal(centrality(window)[[0, 1, 9, 10, 18, 19]], [1, 2, 10, 10, 2, 1])
