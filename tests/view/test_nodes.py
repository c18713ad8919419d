"""What the viewer sends: everything once, then visibility only; resent is what a slider changed, nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.view.cameras import camera_track, thumbnails
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.look import ALIGNED, Look, Painter
from easi3r_ns.view.nodes import SceneNodes
from tests.support.dataset_scene import make_scene


class Node:
    def __init__(self, visible: bool, **sent) -> None:
        self.visible, self.sent = visible, sent


class Recorder:
    """Takes the place of viser's scene and remembers what it was given."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.log: list[str] = []

    def add_point_cloud(self, name, points, colors, point_size, point_shape, visible):
        assert points.dtype == np.float32 and colors.dtype == np.uint8 and len(points) == len(colors) > 0
        return self._add(name, visible, points=points, colors=colors, size=point_size)

    def add_camera_frustum(self, name, visible, **rest):
        return self._add(name, visible, **rest)

    def add_spline_catmull_rom(self, name, positions, visible, **rest):
        return self._add(name, visible, positions=positions)

    def _add(self, name, visible, **sent):
        self.log.append(name)
        self.nodes[name] = Node(visible, **sent)
        return self.nodes[name]

    @property
    def visible(self) -> set[str]:
        return {name for name, node in self.nodes.items() if node.visible}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("store"), (320, 213))[0]


@pytest.fixture(scope="module")
def painter(scene):
    return Painter.of(build_clouds(scene, ViewConfig()))


@pytest.fixture
def recorded(scene, painter):
    recorder = Recorder()
    return recorder, SceneNodes(recorder, painter, camera_track(scene), lambda masks: thumbnails(scene, masks))


LOOK = Look(frame=2, min_confidence=3.0)


def test_a_look_switches_on_what_it_shows(recorded):
    recorder, nodes = recorded
    nodes.show(LOOK)
    assert recorder.visible == {"/static", "/moving/00002", "/camera/00002", "/trajectory"}
    nodes.show(replace(LOOK, frame=4, trail=2))
    trail = {"/trail/00002_4", "/trail/00003_2", "/moving/00004"}
    assert recorder.visible == trail | {"/static", "/camera/00004", "/trajectory"}
    nodes.show(replace(LOOK, cameras="all", trajectory=False, static=False, moving=False))
    assert recorder.visible == {"/camera/00002"} | {f"/cameras/{k:05d}" for k in (0, 1, 3, 4)}
    nodes.show(replace(LOOK, cameras="none", trajectory=False, static=False, moving=False))
    assert recorder.visible == set()


def test_scrubbing_sends_nothing_twice(recorded):
    recorder, nodes = recorded
    nodes.show(LOOK)
    while nodes.catch_up(LOOK, 3):
        pass
    assert sorted(recorder.log) == sorted(set(recorder.log))
    assert {f"/moving/{k:05d}" for k in range(5)} | {f"/camera/{k:05d}" for k in range(5)} <= set(recorder.log)
    recorder.log.clear()
    for frame in (3, 4, 0, 1, 2, 4):
        nodes.show(replace(LOOK, frame=frame))
        assert f"/moving/{frame:05d}" in recorder.visible and len(recorder.visible) == 4
    assert recorder.log == [] and not nodes.catch_up(LOOK, 3) and recorder.log == []


def test_a_trail_fades_with_age_and_is_sent_once(recorded, painter):
    recorder, nodes = recorded
    for frame in (3, 4, 3, 4):
        nodes.show(replace(LOOK, frame=frame, trail=2))
    trails = [name for name in recorder.log if name.startswith("/trail")]
    assert sorted(trails) == ["/trail/00001_4", "/trail/00002_2", "/trail/00002_4", "/trail/00003_2"]
    full, half, faint = (recorder.nodes[n].sent for n in ("/moving/00003", "/trail/00003_2", "/trail/00002_4"))
    np.testing.assert_allclose(255.0 - half["colors"], (1 - 0.375) * (255.0 - full["colors"]), atol=0.51)
    assert half["size"] == pytest.approx(0.75 * full["size"])
    assert faint["size"] == pytest.approx(0.5 * LOOK.point_size * painter.clouds.moving[2].spacing)
    nodes.show(replace(LOOK, frame=4, trail=2, point_size=2.0))
    assert recorder.nodes["/trail/00003_2"].sent["size"] == pytest.approx(half["size"] / LOOK.point_size * 2.0)


def test_catching_up_comes_in_portions_and_stays_hidden(recorded):
    recorder, nodes = recorded
    nodes.show(LOOK)
    before = len(recorder.log)
    assert nodes.catch_up(LOOK, 2)
    assert len(recorder.log) == before + 2
    assert recorder.log[-2:] == ["/moving/00003", "/moving/00004"]
    assert recorder.visible == {"/static", "/moving/00002", "/camera/00002", "/trajectory"}


@pytest.mark.parametrize(
    ("change", "resent"),
    [
        ({"min_confidence": 2.5}, {"/static", "/moving/00002"}),
        ({"point_size": 2.0}, {"/static", "/moving/00002"}),
        ({"color": "score"}, {"/static", "/moving/00002"}),
        ({"masks": True}, {"/camera/00002"}),
        ({"static": False}, set()),
        ({"trajectory": False}, set()),
    ],
)
def test_a_change_resends_what_is_seen_and_concerned(recorded, change, resent):
    recorder, nodes = recorded
    nodes.show(LOOK)
    while nodes.catch_up(LOOK, 10):
        pass
    recorder.log.clear()
    changed = replace(LOOK, **change)
    nodes.show(changed)
    assert set(recorder.log) == resent and len(recorder.log) == len(resent)
    assert all(recorder.nodes[name].visible for name in resent)
    while nodes.catch_up(changed, 10):
        pass
    hidden = [name for name in recorder.log if name not in resent]
    assert {name.split("/")[1] for name in hidden} <= {name.split("/")[1] for name in resent}
    assert not any(recorder.nodes[name].visible for name in hidden)


def test_what_is_sent(recorded, scene, painter):
    recorder, nodes = recorded
    nodes.show(replace(LOOK, point_size=2.0, color="mask"))
    cloud, colors, size = painter.moving(2, replace(LOOK, point_size=2.0, color="mask"))
    sent = recorder.nodes["/moving/00002"].sent
    np.testing.assert_array_equal(sent["points"], cloud.points)
    np.testing.assert_array_equal(sent["colors"], colors)
    assert sent["size"] == size == 2 * painter.clouds.moving[2].spacing
    camera = recorder.nodes["/camera/00002"].sent
    np.testing.assert_allclose(camera["position"], camera_track(scene).T_world_cam[2, :3, 3])
    assert camera["image"].shape == scene.images[2].shape
    height, fy = scene.images.shape[1], scene.focals_xy[2, 1]
    assert camera["fov"] == pytest.approx(2 * np.arctan(height / (2 * fy)))


def test_points_below_the_confidence_are_not_sent(scene):
    confidence = np.where(np.arange(scene.depth.shape[2]) < 64, 2.0, 9.0).astype(np.float32)
    split = replace(scene, confidence=np.broadcast_to(confidence, scene.depth.shape).copy())
    recorder, painter = Recorder(), Painter.of(build_clouds(split, ViewConfig()))
    nodes = SceneNodes(recorder, painter, camera_track(split), lambda masks: thumbnails(split, masks))
    nodes.show(replace(LOOK, min_confidence=2.0))
    everything = len(recorder.nodes["/static"].sent["points"])
    nodes.show(replace(LOOK, min_confidence=5.0))
    assert 0.3 * everything < len(recorder.nodes["/static"].sent["points"]) < 0.7 * everything


def test_unregistered_cameras_are_told_apart(scene, painter):
    refined = replace(scene, pose_sources=("colmap", "aligned", "colmap", "colmap", "aligned"))
    recorder = Recorder()
    nodes = SceneNodes(recorder, painter, camera_track(refined), lambda masks: thumbnails(refined, masks))
    nodes.show(replace(LOOK, cameras="all"))
    marked = {name for name, node in recorder.nodes.items() if node.sent.get("color") == ALIGNED}
    assert marked == {"/cameras/00001", "/cameras/00004"}


def test_a_frame_without_moving_points_shows_none(scene):
    masks = scene.dynamic.masks.copy()
    masks[1] = False
    partly = replace(scene, dynamic=replace(scene.dynamic, masks=masks))
    recorder, painter = Recorder(), Painter.of(build_clouds(partly, ViewConfig()))
    nodes = SceneNodes(recorder, painter, camera_track(partly), lambda _: thumbnails(partly, False))
    nodes.show(replace(LOOK, frame=1))
    assert recorder.visible == {"/static", "/camera/00001", "/trajectory"}
    while nodes.catch_up(LOOK, 5):
        pass
    assert "/moving/00001" not in recorder.nodes
