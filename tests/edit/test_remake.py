"""Two solutions side by side: numbers and drawings."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from easi3r_ns.core.similarity import Similarity
from easi3r_ns.edit.remake import Figure, Solved, as_json, moved, top_views
from tests.support.dataset_scene import camera

OLD = np.stack([camera(frame) for frame in range(8)])
TURN = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
ELSEWHERE = Similarity(3.0, TURN, np.array([1.0, -2, 5])).cameras(OLD)


def test_another_world_is_no_move():
    after, distance, _ = moved(Solved(OLD, ELSEWHERE))
    assert np.allclose(after, OLD, atol=1e-6) and distance.max() < 1e-6


def test_one_camera_that_moved_is_named():
    new = ELSEWHERE.copy()
    new[5, :3, 3] += 1.0
    shown = as_json(Solved(OLD, new, (Figure("Points", "10", "12"),), ("a note",)))
    assert int(np.argmax(shown["moved"])) == 5
    assert any("(frame 6)" in str(figure) for figure in shown["figures"]) and ["Points", "10", "12"] in shown["figures"]


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_drawings_are_whole_and_show_both_paths(count):
    views = top_views(Solved(OLD[:count], ELSEWHERE[:count]))
    for side in ("before", "after"):
        root = ET.fromstring(views[side])
        lines = [element for element in root if element.tag.endswith("polyline")]
        assert len(lines) == 2 and "nan" not in views[side]
        for x, y in (point.split(",") for line in lines for point in (line.get("points") or "").split()):
            assert 0 <= float(x) <= 360 and 0 <= float(y) <= 360
    assert views["before"] != views["after"] or not count


def test_equal_paths_are_drawn_at_one_place():
    views = top_views(Solved(OLD, ELSEWHERE))
    paths = [[e.get("points") for e in ET.fromstring(views[side]) if e.tag.endswith("polyline")] for side in views]
    assert paths[0][0] == paths[0][1] == paths[1][1]
