"""The verdict: every limit of the table from both sides, and whole scenes with one fault each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.core.scene import Scene, SparsePoints
from easi3r_ns.core.surface import world_points
from easi3r_ns.report.measures import Measures, measure
from easi3r_ns.report.rules import RULES, Level, Rule, care_limit
from easi3r_ns.report.verdict import Verdict, judge
from easi3r_ns.report.words import percent
from tests.support.dataset_scene import make_scene

GOOD = Measures(
    num_frames=50, duration=4.0, coverage=0.1, coverage_max=0.2, flicker=0.05, usable=0.7, num_sparse=4000, travel=0.5,
    parallax=12.0, jumps=0.0, roughness=0.3, picture_change=20.0, depth_error=0.01, colour_gain=0.4, reprojection=0.5,
    fov=60.0, focal_spread=0.02, focal_known=False, unregistered=0.0, has_depth=True, preview_weights=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("room"), (160, 120), 12)[0]


def reasons(verdict: Verdict) -> set[str]:
    return {finding.rule.key for finding in verdict.against}


def test_good_measures() -> None:
    verdict = judge(GOOD)
    assert verdict.level is Level.TRAIN and not verdict.against
    assert verdict.level.words == "Train"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
def test_every_limit_from_both_sides(rule: Rule) -> None:
    step = -1e-6 if rule.fine == "at least" else 1e-6
    assert rule.care is not None or rule.stop is not None
    for level, limit in ((Level.CARE, rule.care), (Level.STOP, rule.stop)):
        if limit is None:
            continue
        at, beyond = (judge(replace(GOOD, **{rule.key: limit + offset})) for offset in (0, step))
        assert beyond.level is level and reasons(beyond) == {rule.key}
        assert at.level is (Level.TRAIN if level is Level.CARE or rule.care is None else Level.CARE)
        (finding,) = beyond.against
        assert "{" not in finding.reason and finding.rule.remedy.endswith(".")
    if rule.care is not None and rule.stop is not None:
        assert (rule.stop < rule.care) == (rule.fine == "at least"), "stop lies beyond care"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
def test_the_reason_names_the_value(rule: Rule) -> None:
    finding = next(f for f in judge(replace(GOOD, **{rule.key: 0.4321})).findings if f.rule is rule)
    assert finding.shown in finding.reason or finding.shown == "yes"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("roughness", 1.004, "just above 1.00"), ("roughness", 1.006, "1.01"), ("parallax", 2.99, "just below 3 degrees")],
)
def test_a_value_that_rounds_to_the_limit_is_told_apart_from_it(key: str, value: float, shown: str) -> None:
    (finding,) = judge(replace(GOOD, **{key: value})).against
    assert finding.shown == shown and shown in finding.reason


def test_what_is_not_measured_speaks_neither_for_nor_against() -> None:
    optional = {field.name for field in dataclasses.fields(Measures) if "None" in str(field.type)}
    verdict = judge(replace(GOOD, **dict.fromkeys(optional)))
    assert verdict.level is Level.TRAIN
    assert {finding.shown for finding in verdict.findings if finding.rule.key in optional} == {"not measured"}


def test_rules_measure_what_exists() -> None:
    assert {rule.key for rule in RULES} <= {field.name for field in dataclasses.fields(Measures)}
    assert len({rule.title for rule in RULES}) == len(RULES)
    assert care_limit("parallax") == 3.0


def test_the_worst_decides_and_comes_first() -> None:
    verdict = judge(replace(GOOD, flicker=1.0, parallax=0.1))
    assert verdict.level is Level.STOP
    assert [finding.rule.key for finding in verdict.against] == ["parallax", "flicker"]
    assert "2 things" in judge(replace(GOOD, flicker=1.0, fov=5.0)).summary
    assert "one thing" in judge(replace(GOOD, flicker=1.0)).summary


def still(scene: Scene) -> Scene:
    """A tripod: the first picture, depth and camera throughout."""
    first = {name: np.repeat(getattr(scene, name)[:1], len(scene), axis=0) for name in ("images", "depth")}
    T = np.repeat(scene.T_world_cam[:1], len(scene), axis=0)
    masks = np.repeat(scene.dynamic.masks[:1], len(scene), axis=0)
    return replace(scene, **first, T_world_cam=T, dynamic=replace(scene.dynamic, masks=masks))


def turning(scene: Scene) -> Scene:
    """The cameras stay at one place; the pictures change as before."""
    T = scene.T_world_cam.copy()
    T[:, :3, 3] = T[0, :3, 3]
    return replace(scene, T_world_cam=T)


def covered(scene: Scene) -> Scene:
    masks = np.zeros_like(scene.dynamic.masks)
    masks[:, :, :80] = True
    return replace(scene, dynamic=replace(scene.dynamic, masks=masks))


def turned_inside_out(scene: Scene) -> Scene:
    """Everything moves but the middle: cameras that follow something large before a background."""
    masks = np.ones_like(scene.dynamic.masks)
    masks[:, 15:-15, 15:-15] = False
    return replace(scene, dynamic=replace(scene.dynamic, masks=masks))


def behind(scene: Scene) -> Scene:
    """The background of something large that hides three quarters of it and reaches the lower side counts as moving."""
    return replace(scene, dynamic=replace(scene.dynamic, masks=~_large(scene)))


def before(scene: Scene) -> Scene:
    """The same with the large thing as what moves."""
    return replace(scene, dynamic=replace(scene.dynamic, masks=_large(scene)))


def _large(scene: Scene) -> np.ndarray:
    height, width = scene.dynamic.masks.shape[1:]
    masks = np.zeros_like(scene.dynamic.masks)
    masks[:, round(0.15 * height) :, round(0.06 * width) : round(0.94 * width)] = True
    return masks


def along_a_side(scene: Scene) -> Scene:
    """A band at the lower side moves, as a bonnet or a hand does."""
    masks = np.zeros_like(scene.dynamic.masks)
    masks[:, -masks.shape[1] // 5 :] = True
    return replace(scene, dynamic=replace(scene.dynamic, masks=masks))


def flickering(scene: Scene) -> Scene:
    masks = scene.dynamic.masks.copy()
    masks[::2] = False
    return replace(scene, dynamic=replace(scene.dynamic, masks=masks))


def doubtful(scene: Scene) -> Scene:
    confidence = scene.confidence.copy()
    confidence[:, 5:] = 1.0
    return replace(scene, confidence=confidence)


def jumping(scene: Scene) -> Scene:
    T = scene.T_world_cam.copy()
    T[6:, 0, 3] += 9.0
    return replace(scene, T_world_cam=T)


def trembling(scene: Scene) -> Scene:
    T = scene.T_world_cam.copy()
    T[:, :3, 3] += 0.4 * np.random.default_rng(0).standard_normal((len(T), 3))
    return replace(scene, T_world_cam=T)


def contradicting(scene: Scene) -> Scene:
    depth = scene.depth * (1 + 0.3 * (np.arange(len(scene)) % 4 > 1))[:, None, None]
    return replace(scene, depth=depth.astype(np.float32))


def without_depth(scene: Scene, count: int) -> Scene:
    """A scene of the geometric pipeline: triangulated points instead of depth."""
    points = world_points(scene, 0).reshape(-1, 3)[:: len(world_points(scene, 0).reshape(-1, 3)) // count][:count]
    frames = np.tile(np.arange(len(scene)), count)
    index = np.repeat(np.arange(count), len(scene))
    sparse = SparsePoints(
        points.astype(float), np.zeros((count, 3), np.uint8), np.full(count, 0.2), index, frames,
        np.zeros((len(index), 2)),
    )  # fmt: skip
    nothing = np.zeros_like(scene.depth)
    return replace(scene, depth=nothing, confidence=nothing, sparse=sparse)


@pytest.mark.parametrize(
    ("spoil", "level", "because"),
    [
        (lambda s: s, Level.TRAIN, set()),
        (still, Level.STOP, {"picture_change", "parallax"}),
        (turning, Level.STOP, {"parallax"}),
        (covered, Level.CARE, {"coverage"}),
        (turned_inside_out, Level.CARE, {"rim", "surrounds"}),
        (behind, Level.CARE, {"surrounds"}),
        (before, Level.CARE, {"coverage"}),
        (along_a_side, Level.TRAIN, set()),
        (flickering, Level.CARE, {"flicker"}),
        (doubtful, Level.CARE, {"usable"}),
        (jumping, Level.CARE, {"jumps"}),
        (trembling, Level.CARE, {"roughness", "colour_gain"}),
        (contradicting, Level.CARE, {"depth_error"}),
        (lambda s: without_depth(s, 1000), Level.TRAIN, set()),
        (lambda s: without_depth(s, 300), Level.CARE, {"num_sparse"}),
        (lambda s: without_depth(s, 50), Level.STOP, {"num_sparse"}),
        (lambda s: replace(s, pose_sources=("colmap",) * 9 + ("aligned",) * 3), Level.CARE, {"unregistered"}),
        (lambda s: replace(s, focals=np.linspace(60, 160, 12)), Level.CARE, {"focal_spread"}),
        (lambda s: replace(s, provenance={"zoom": {"not_modelled": 0.0}}), Level.TRAIN, set()),
        (lambda s: replace(s, provenance={"zoom": {"not_modelled": 0.1}}), Level.CARE, {"focal_change"}),
        (lambda s: replace(s, provenance={"refine": {"zoom": {"not_modelled": 1.2}}}), Level.STOP, {"focal_change"}),
        (lambda s: replace(s, provenance={"mapping": {"depth_order": -0.7}}), Level.CARE, {"depth_order"}),
        (lambda s: replace(s, provenance={"weights": {"name": "tiny"}}), Level.CARE, {"preview_weights"}),
        (
            lambda s: replace(s, provenance={"weights": {"name": "tiny"}}, pose_sources=("colmap",) * 12),
            Level.TRAIN,
            set(),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_scenes_with_one_fault(room: Scene, spoil: Callable[[Scene], Scene], level: Level, because: set[str]) -> None:
    verdict = judge(measure(spoil(room)).measures)
    assert verdict.level >= level and because <= reasons(verdict)
    if level is Level.TRAIN:
        assert not verdict.against


def test_shares_are_shown_with_two_digits() -> None:
    shares = (0.0, 0.0012, 0.051, 0.5, 0.987)
    assert [percent(share) for share in shares] == ["0 %", "0.1 %", "5.1 %", "50 %", "99 %"]
