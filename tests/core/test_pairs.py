from __future__ import annotations

import json

import pytest

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.pairs import attach_frames, make_pairs
from tests.support.helpers import GOLDEN

GOLDEN_GRAPHS = json.loads((GOLDEN / "pipeline" / "scene_graphs.json").read_text())


@pytest.mark.parametrize("name", GOLDEN_GRAPHS["graphs"])
def test_golden_graphs(name):
    """Equal as sets; self pairs of the reference are dropped and graphs that it forgot to mirror are mirrored."""
    golden = GOLDEN_GRAPHS["graphs"][name]
    expected = {(i, j) for i, j in golden["sorted"] if i != j}
    if not golden["symmetric"]:
        expected |= {(j, i) for i, j in expected}
    graph = make_pairs(golden["scene_graph"], golden["n"])
    assert {tuple(edge) for edge in graph.edges.tolist()} == expected


@pytest.mark.parametrize("name", GOLDEN_GRAPHS["directed_edge_counts"])
def test_golden_edge_counts(name):
    strategy, n = name.split("|n=")
    assert len(make_pairs(strategy, int(n))) == GOLDEN_GRAPHS["directed_edge_counts"][name]


@pytest.mark.parametrize(
    "strategy", ["swin", "swin-0", "swin-x-noncyclic", "star-3", "complete-noncyclic", "oneref-9", ""]
)
def test_unknown_strategies_are_named(strategy):
    with pytest.raises(InputError, match="--graph"):
        make_pairs(strategy, 5)


def test_one_frame_is_refused():
    with pytest.raises(InputError, match="at least two"):
        make_pairs("complete", 1)


def test_attached_frames_see_the_whole_clip():
    graph = attach_frames(make_pairs("swin-1-noncyclic", 9), 2, links=3)
    assert graph.num_frames == 11
    assert {j for i, j in graph.edges.tolist() if i == 9} == {0, 4, 8, 10}
    assert attach_frames(make_pairs("complete", 2), 1).num_frames == 3
