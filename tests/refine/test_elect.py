"""Which mapping is kept: masked, with little parallax, without masks, global; on exact tracks with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import RefineConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.refine.elect import MASKED, Mapped, Rival, better, degenerate, elect_model
from easi3r_ns.refine.held import HeldOut
from easi3r_ns.refine.model import Correspondences, Lens, SparseModel
from easi3r_ns.refine.place import place_missing
from easi3r_ns.storage.files import write_png
from tests.support.align_scene import trajectory_errors
from tests.support.refine_clip import PIXEL_MAP, Tracks, disturbed, make_tracks

pycolmap = pytest.importorskip("pycolmap")
from easi3r_ns.refine import mapping as module  # noqa: E402
from easi3r_ns.refine.mapping import (  # noqa: E402
    AGAIN,
    GLOBAL,
    LITTLE,
    PLAIN,
    CollapsedError,
    map_globally,
    map_incrementally,
    map_static,
)

LENS = Lens.centred((640, 480), 600)
ATE = 0.004
"""Error of a right path: about a pixel of noise over the number of tracks."""


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return make_tracks()


@pytest.fixture(scope="module")
def model(tracks) -> SparseModel:
    found = map_incrementally(tracks.found, LENS, RefineConfig(), fixed_focal=False, seed=0)
    assert found.registered.all()
    return found


@pytest.fixture(scope="module")
def held(tracks) -> HeldOut:
    return HeldOut.of(tracks.found, 0)


def first_frames(found: Correspondences, last: int) -> Correspondences:
    """The matches of frames 0 to ``last`` only."""
    near = [k for k, (_, j) in enumerate(found.pairs.tolist()) if j <= last]
    return Correspondences(found.keypoints, found.pairs[near], tuple(found.matches[k] for k in near))


def kept(best: Mapped, rival: Mapped, held: HeldOut) -> str:
    return better(best, rival, held)[0].name


def test_global_mapping_is_exact_and_repeats(tracks):
    options = {"fixed_focal": False, "seed": 0}
    first = map_globally(tracks.found, LENS, RefineConfig(), **options)
    pycolmap.set_random_seed(17)  # what was drawn before must not matter
    again = map_globally(tracks.found, LENS, RefineConfig(), **options)
    assert first.registered.all()
    assert trajectory_errors(first.T_world_cam, tracks.T_world_cam)["ate"] < ATE
    np.testing.assert_array_equal(first.T_world_cam, again.T_world_cam)


def test_global_mapping_keeps_a_known_focal_length(tracks):
    lens = Lens.centred((640, 480), 560)
    assert map_globally(tracks.found, lens, RefineConfig(), fixed_focal=True, seed=0).focal == 560


def test_more_frames_win_where_both_are_right(model, held):
    part = Mapped("part", model.restricted(np.arange(8) < 6))
    assert kept(part, Mapped("all", model), held=held) == "all"
    assert kept(Mapped("all", model), part, held=held) == "all"


def test_more_frames_do_not_win_with_a_wrong_path(model, held):
    wrong = Mapped("wrong", replace(model, T_world_cam=disturbed(model.T_world_cam, 3.0, 0.2)))
    part = Mapped("part", model.restricted(np.arange(8) < 6))
    assert kept(wrong, part, held=held) == kept(part, wrong, held=held) == "part"


def test_frames_that_are_hard_do_not_count_against_the_one_that_places_them(model, held):
    hard = model.T_world_cam.copy()
    hard[6:] = disturbed(hard[6:], 0.3, 0.02)
    part = Mapped("part", model.restricted(np.arange(8) < 6))
    assert kept(part, Mapped("all", replace(model, T_world_cam=hard)), held=held) == "all"


def test_frames_whose_cameras_do_not_hold_do_not_count(model, held):
    hard = model.T_world_cam.copy()
    hard[6:] = disturbed(hard[6:], 8.0, 0.5)
    part = Mapped("part", model.restricted(np.arange(8) < 6))
    assert kept(part, Mapped("all", replace(model, T_world_cam=hard)), held=held) == "part"


def test_of_equals_the_first_stays_and_a_clearly_better_one_wins(model, held):
    slightly = Mapped("slightly", replace(model, T_world_cam=disturbed(model.T_world_cam, 0.02, 0.001)))
    clearly = Mapped("clearly", replace(model, T_world_cam=disturbed(model.T_world_cam, 0.2, 0.01)))
    right = Mapped("right", model)
    assert kept(slightly, right, held=held) == "slightly"
    assert kept(clearly, right, held=held) == "right"


@pytest.mark.parametrize("lens", [{"focal": 640 * 3.6}, {"focal": 640 * 0.35}, {"distortion": (-1.2, 0, 0, 0)}])
def test_a_degenerate_lens_loses_although_it_places_more_frames(model, held, lens):
    wrong = Mapped("wrong", replace(model, lens=replace(model.lens, **lens)))
    part = Mapped("part", model.restricted(np.arange(8) < 5))
    assert degenerate(wrong.model.lens) and not degenerate(part.model.lens)
    assert kept(part, wrong, held=held) == kept(wrong, part, held=held) == "part"


def test_a_long_lens_that_was_told_is_plausible(model):
    tele = replace(model.lens, focal=640 * 3.6)
    assert degenerate(tele) and not degenerate(tele, 640 * 3.5) and degenerate(tele, 640 * 1.2)


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Frames, DynamicMasks]:
    """Eight frames whose masks cover two fifths of the picture."""
    paths = tuple(tmp_path / f"{k}.png" for k in range(8))
    for path in paths:
        write_png(path, np.zeros((480, 640, 3), np.uint8))
    images, order = np.zeros((8, 96, 128, 3), np.uint8), np.arange(8)
    frames = Frames(images, PIXEL_MAP, order / 10.0, order, ("clip",) * 8, paths, 8)
    masks = static_masks(8, 96, 128, 16)
    moving = masks.masks.copy()
    moving[:, :40] = True
    return frames, replace(masks, masks=moving)


class Listening(RunLog):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    @property
    def made(self) -> list[str]:
        """Names of the mappings that were made."""
        return [stage.name for stage in self.stages]


@pytest.fixture
def mapped(monkeypatch, clip) -> Callable[..., tuple[SparseModel, Listening]]:
    """Map the clip from these matches."""

    def run(masked: Correspondences, everything: Correspondences, dynamic: DynamicMasks | None = None, **options):
        monkeypatch.setattr(module, "detect_features", lambda *_: None)
        monkeypatch.setattr(
            module, "find_correspondences", lambda _, masks, *__, **___: masked if masks.masks.any() else everything
        )
        log = Listening()
        model = map_static(clip[0], dynamic or clip[1], RefineConfig(), log, focal=None, seed=0, **options)
        return model, log

    return run


def test_where_masks_hide_frames_mapping_without_them_wins(mapped, tracks):
    found, log = mapped(first_frames(tracks.found, 5), tracks.found)
    assert found.registered.all()
    assert trajectory_errors(found.T_world_cam, tracks.T_world_cam)["ate"] < ATE
    assert found.record["kept"] == PLAIN and found.record["candidates"][MASKED]["frames"] == 6
    assert GLOBAL not in log.made
    assert len(log.lines) == 1 and "8 of 8 frames" in log.lines[0] and "against 6" in log.lines[0]


def test_a_tie_is_that_of_the_masks_and_its_cameras_are_those_of_masked_mapping(mapped, tracks):
    found, log = mapped(tracks.found, tracks.found)
    assert log.made == [MASKED, PLAIN], "masks over two fifths of the picture were not doubted"
    alone = module.in_first_camera(
        map_incrementally(tracks.found, Lens.centred((640, 480), 1.2 * 640), RefineConfig(), fixed_focal=False, seed=0)
    )
    assert found.record["kept"] == MASKED
    np.testing.assert_array_equal(found.T_world_cam, alone.T_world_cam)


def test_masks_that_are_right_are_not_overruled(mapped, tracks):
    # Without masks twice as many keypoints follow another path: something large that moves.
    mover = make_tracks(num_points=800, seed=3).found
    keypoints = tuple(np.concatenate(both) for both in zip(tracks.found.keypoints, mover.keypoints))
    counts = np.array([len(xy) for xy in tracks.found.keypoints])
    joined = {tuple(p): [m] for p, m in zip(tracks.found.pairs.tolist(), tracks.found.matches)}
    for pair, rows in zip(mover.pairs.tolist(), mover.matches):
        joined.setdefault(tuple(pair), []).append(rows + counts[pair])
    pairs = sorted(joined)
    everything = Correspondences(keypoints, np.array(pairs), tuple(np.concatenate(joined[p]) for p in pairs))
    found, log = mapped(tracks.found, everything)
    assert PLAIN in log.made and found.record["kept"] == MASKED
    assert trajectory_errors(found.T_world_cam, tracks.T_world_cam)["ate"] < ATE


def test_small_masks_that_lose_no_frame_cost_one_mapping(mapped, tracks, clip):
    small = clip[1].masks.copy()
    small[:, 5:] = False
    found, log = mapped(tracks.found, tracks.found, replace(clip[1], masks=small))
    assert log.made == [MASKED] and found.record["kept"] == MASKED


def test_the_global_mapper_adds_frames_that_incremental_mapping_lacks(monkeypatch, mapped, tracks):
    incrementally = module.map_incrementally

    def short(*args, **options):
        found = incrementally(*args, **options)
        return found and found.restricted(np.arange(8) < 6)

    monkeypatch.setattr(module, "map_incrementally", short)
    found, log = mapped(tracks.found, tracks.found, static_masks(8, 96, 128, 16))
    assert log.made == [MASKED, LITTLE, GLOBAL] and found.registered.all()
    assert trajectory_errors(found.T_world_cam, tracks.T_world_cam)["ate"] < ATE


def test_where_a_model_collapses_mapping_with_little_parallax_takes_over(monkeypatch, mapped, tracks):
    monkeypatch.setattr(module, "COLLAPSED", (4, 10**9))
    with pytest.raises(CollapsedError):
        map_incrementally(tracks.found, LENS, RefineConfig(), fixed_focal=False, seed=0, give_up=True)
    found, log = mapped(tracks.found, tracks.found, static_masks(8, 96, 128, 16))
    assert log.made == [MASKED, LITTLE] and found.record["kept"] == LITTLE and found.registered.all()
    assert trajectory_errors(found.T_world_cam, tracks.T_world_cam)["ate"] < ATE


def test_the_first_mapping_goes_on_where_little_parallax_lacks_frames(monkeypatch, mapped, tracks):
    monkeypatch.setattr(module, "COLLAPSED", (4, 10**9))
    incrementally = module.map_incrementally

    def short(*args, **options):
        found = incrementally(*args, **options)
        return found.restricted(np.arange(8) < 6) if options.get("little_parallax") else found

    monkeypatch.setattr(module, "map_incrementally", short)
    found, log = mapped(tracks.found, tracks.found, static_masks(8, 96, 128, 16))
    assert log.made == [MASKED, LITTLE, AGAIN] and found.record["kept"] == AGAIN and found.registered.all()


def test_a_camera_that_hardly_travels_costs_one_mapping(monkeypatch, mapped, tracks):
    """Where it comes to nothing, a turning camera takes over; until then no other mapping costs time."""
    starts = []

    def nothing(folder, options, start, next_image, *, give_up=False):
        starts.append((options.max_num_models, give_up, options.triangulation.min_angle))
        return []

    monkeypatch.setattr(module, "_run_mapper", nothing)
    with pytest.raises(AlignmentError):
        mapped(tracks.found, tracks.found, hardly_travels=True)
    assert set(starts) == {(module.MODELS, False, module.LITTLE_PARALLAX)} and len(starts) <= 2
    starts.clear()
    with pytest.raises(AlignmentError):
        mapped(tracks.found, tracks.found)
    assert (module.MORE_MODELS, False, module.LITTLE_PARALLAX) in starts and starts[0][2] > 1
    starts.clear()
    with pytest.raises(AlignmentError):
        mapped(tracks.found, tracks.found, hardly_travels=True, shared_focal=False)
    assert starts and starts[0][2] > 1, "with a focal length for every frame there is no other mapping"


@pytest.mark.parametrize("right", [True, False])
def test_where_the_first_mapping_gives_nothing_only_cameras_that_hold_are_kept(tracks, model, right):
    poor = replace(model, T_world_cam=disturbed(model.T_world_cam, 3.0, 0.3))
    rivals = [Rival(LITTLE, lambda: tracks.found, lambda _: model if right else poor)]
    rivals.append(Rival(GLOBAL, lambda: tracks.found, lambda _: pytest.fail("it takes long"), needs_cameras=not right))
    found = elect_model(None, tracks.found, rivals, RunLog(), doubted=False, seed=0)
    assert (found is not None) == right


def test_the_same_input_gives_the_same_cameras(mapped, tracks):
    part = first_frames(tracks.found, 5)
    first, _ = mapped(part, tracks.found)
    pycolmap.set_random_seed(17)  # what was drawn before must not matter
    again, _ = mapped(part, tracks.found)
    np.testing.assert_array_equal(first.T_world_cam, again.T_world_cam)
    np.testing.assert_array_equal(first.sparse.points, again.sparse.points)
    assert first.record == again.record


def test_missing_frames_are_placed_where_held_out_matches_confirm_them(tracks, model, held):
    part = model.restricted(np.isin(np.arange(8), (0, 1, 2, 4, 5)))
    whole = place_missing(part, tracks.found, held, 0)
    assert whole.registered.all()
    assert trajectory_errors(whole.T_world_cam, tracks.T_world_cam)["ate"] < ATE
    np.testing.assert_array_equal(whole.T_world_cam[part.registered], part.T_world_cam[part.registered])
    assert (np.diff(whole.sparse.point_index) >= 0).all()
    assert np.unique(np.stack([whole.sparse.point_index, whole.sparse.frame_index]), axis=1).shape[1] == len(
        whole.sparse.point_index
    )


def test_missing_frames_stay_missing_where_held_out_matches_contradict_them(tracks, model, held):
    rng = np.random.default_rng(0)
    wrong = tuple(
        np.stack([m[:, 0], rng.permutation(m[:, 1])], axis=1) if 3 in pair else m
        for pair, m in zip(held.static.pairs.tolist(), held.static.matches)
    )
    part = model.restricted(np.arange(8) != 3)
    false = HeldOut(Correspondences(held.static.keypoints, held.static.pairs, wrong))
    found = place_missing(part, tracks.found, false, 0)
    assert not found.registered[3]
