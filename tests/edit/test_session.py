"""Corrections: what a click changes, undo and redo, and what a killed process leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.edit import history, store
from easi3r_ns.edit.found import keep_found, kept_found
from easi3r_ns.edit.history import from_json, to_json
from easi3r_ns.edit.marks import AS_FOUND, MOVES, STILL, no_marks
from easi3r_ns.edit.session import Session
from easi3r_ns.edit.store import FolderStore
from easi3r_ns.storage.corrections import read_corrections
from easi3r_ns.storage.files import read_png, write_png
from tests.edit.conftest import FALSE, no_following, open_session


def everything(session: Session) -> tuple:
    marks = [session.marks.get(k, no_marks(session.shape)).tobytes() for k in range(len(session.scene))]
    return marks, {name: sorted(frames) for name, frames in session.flags.items()}


def middle_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def test_a_click_takes_a_false_mask_away(session):
    change = session.click(0, (100, 5), STILL)
    assert change.frames == (0,) and change.what == "region stands still"
    assert not session.mask(0)[FALSE].any()
    assert (session.mask(0) == (session.scene.dynamic.objects[0] == 1)).all() and session.mask(1)[FALSE].all()


def test_a_click_on_an_object_does_not_take_what_touches_it(scene, tmp_path):
    objects = scene.dynamic.objects.copy()
    objects[0, 12:20, 90:110] = 1
    touching = replace(scene, dynamic=replace(scene.dynamic, objects=objects, masks=objects > 0))
    session = open_session(touching, tmp_path)
    session.click(0, (100, 5), STILL)
    assert session.mask(0)[12:20, 90:110].all() and not session.mask(0)[FALSE].any()


def test_a_click_where_nothing_is_marked_takes_what_looks_like_one_surface(session, truth):
    """The ball is missed in this frame; a click marks a part of it and no more than a rim beside it."""
    ball = truth.dynamic.masks[2]
    session.click(2, middle_of(ball), MOVES)
    added = session.mask(2) & ~session.found[2]
    assert added.sum() > 20 and (added & ball).sum() > 0.8 * added.sum()


def test_undo_and_redo_go_through_all_that_was_done(session):
    states = [everything(session)]
    for act in (
        lambda: session.click(0, (100, 5), STILL),
        lambda: session.brush(2, [(20, 20), (60, 50)], 4, MOVES),
        lambda: session.brush(2, [(40, 30), (70, 50)], 3, AS_FOUND),
        lambda: session.box(4, (10, 10), (30, 40), MOVES),
        lambda: session.object(2, STILL, 1),
        lambda: session.flag("excluded", 3, True),
        lambda: session.flag("keyframes", 0, True),
    ):
        assert act().what
        states.append(everything(session))
    assert len({str(state) for state in states}) == len(states)
    for expected in states[-2::-1]:
        assert session.undo().what and everything(session) == expected
    assert session.undo().what == "" and everything(session) == states[0]
    for expected in states[1:]:
        assert session.redo().what and everything(session) == expected
    assert session.redo().what == ""


def test_a_new_change_forgets_what_was_undone(session):
    session.box(0, (1, 1), (5, 5), MOVES)
    session.undo()
    session.box(0, (20, 20), (25, 25), MOVES)
    assert session.redo().what == "" and len(session.history.actions) == 1


def test_what_changes_nothing_is_no_step(session):
    assert session.box(0, (500, 500), (600, 600), MOVES).what == ""
    assert session.flag("excluded", 0, False).what == ""
    assert session.history.last is None


def test_a_new_session_has_everything(session, scene, tmp_path):
    session.click(0, (100, 5), STILL)
    session.brush(2, [(20, 20), (60, 50)], 4, MOVES)
    session.flag("excluded", 3, True)
    session.undo()
    again = open_session(scene, tmp_path)
    assert everything(again) == everything(session) and again.history == session.history
    assert again.redo().what == "frame 4 is excluded" and again.undo().what and again.undo().what == "brush: moves"
    assert not (again.marks[2] != AS_FOUND).any()


def test_the_folder_is_what_a_run_reads(session, scene, tmp_path):
    session.click(0, (100, 5), STILL)
    session.flag("excluded", 3, True)
    kept = read_corrections(tmp_path / "corrections")
    assert list(kept.marks) == ["frame_00001"] and kept.excluded == ("frame_00004",) and kept.size == (320, 213)
    width, height = scene.pixel_map.resized_wh
    left, top, right, bottom = scene.pixel_map.crop_box
    assert kept.marks["frame_00001"].shape == (height, width)
    assert (kept.marks["frame_00001"][top:bottom, left:right] == session.marks[0]).all()


class Killed(Exception):
    """The process ends."""


class Dying(FolderStore):
    """A store whose process is killed before a given write."""

    def __init__(self, *arguments, alive: int) -> None:
        super().__init__(*arguments)
        self.alive = alive

    def _live(self) -> None:
        self.alive -= 1
        if self.alive < 0:
            raise Killed

    def write_record(self, *arguments) -> None:
        self._live()
        super().write_record(*arguments)

    def write_marks(self, marks: Mapping[int, np.ndarray]) -> None:
        for frame, own in marks.items():
            self._live()
            super().write_marks({frame: own})


@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("alive", range(8))
def test_a_kill_at_any_write_leaves_the_state_before_or_after(scene, tmp_path, alive, undone):
    """An object in all five frames takes six writes; overlapping it, an older stroke."""
    first = open_session(scene, tmp_path)
    first.brush(1, [(95, 3), (120, 30)], 5, MOVES)
    if undone:
        first.object(2, STILL, 0)
    states = [everything(first)]
    dying = Session(scene, Dying(tmp_path, scene, alive=alive), tmp_path)
    assert everything(dying) == states[0]
    try:
        dying.undo() if undone else dying.object(2, STILL, 0)
        assert alive >= 6
    except Killed:
        assert alive < 6
    twin = open_session(scene, tmp_path / "twin")
    twin.brush(1, [(95, 3), (120, 30)], 5, MOVES)
    if not undone:
        twin.object(2, STILL, 0)
    states.append(everything(twin))
    found = open_session(scene, tmp_path)
    assert everything(found) == states[1 if alive else 0]
    found.undo()
    if not undone and alive:
        assert everything(found) == states[0]


def test_what_a_kill_left_undone_is_written_when_the_editor_opens(scene, tmp_path):
    dying = Session(scene, Dying(tmp_path, scene, alive=1), tmp_path)
    with pytest.raises(Killed):
        dying.click(0, (100, 5), STILL)
    marked = (open_session(scene, tmp_path).marks[0] == STILL).sum()
    for frame in (3, 4):
        open_session(scene, tmp_path).box(frame, (5, 5), (15, 15), STILL)
    assert marked and (open_session(scene, tmp_path).marks[0] == STILL).sum() == marked


def test_what_another_program_painted_over_the_last_stroke_stays(scene, tmp_path):
    session = open_session(scene, tmp_path)
    session.box(0, (5, 5), (60, 40), STILL)
    painted = session.marks[0].copy()
    painted[painted == STILL] = MOVES
    session._store.write_marks({0: painted})
    for _ in range(2):
        assert (open_session(scene, tmp_path).marks[0] == painted).all()


def test_the_disk_refuses(session, monkeypatch):
    def refuses(*arguments) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(session._store, "write_record", refuses)
    before = everything(session)
    for act in (lambda: session.click(0, (100, 5), STILL), lambda: session.flag("excluded", 1, True)):
        with pytest.raises(OutputError, match="full"):
            act()
        assert everything(session) == before and session.history.last is None


def test_an_object_of_all_frames(session):
    session.object(2, STILL, 0)
    assert not any(session.mask(k)[FALSE].any() for k in range(5))
    session.object(2, AS_FOUND, 0)
    assert all((session.mask(k) == session.found[k]).all() for k in range(5))
    with pytest.raises(InputError, match="no object 9"):
        session.object(9, STILL, 0)


def test_following_takes_the_whole_painted_piece(session):
    session.brush(2, [(20, 20), (40, 20)], 3, MOVES)
    session.brush(2, [(40, 20), (40, 40)], 3, MOVES)
    session.brush(2, [(80, 70)], 2, MOVES)
    session.undo()
    steps = []
    change = session.follow(2, no_following(session.scene), steps.append)
    assert change.frames == (0, 1, 3, 4) and len(steps) == 4
    for k in change.frames:
        assert ((session.marks[k] == MOVES) == (session.marks[2] == MOVES)).all()
    assert session.undo().what == "all frames: moves" and (session.marks[2] == MOVES).any()


def test_following_wants_a_region_of_this_frame(session):
    with pytest.raises(InputError, match="first click or paint"):
        session.region_to_follow(0)
    session.box(1, (10, 10), (20, 20), MOVES)
    with pytest.raises(InputError, match="first click or paint"):
        session.region_to_follow(0)
    session.box(1, (10, 10), (20, 20), AS_FOUND)
    with pytest.raises(InputError, match="took a correction away"):
        session.region_to_follow(1)


def test_shapes_between_corrected_frames(session):
    session.box(0, (10, 10), (22, 22), MOVES)
    session.box(4, (50, 30), (62, 42), MOVES)
    session.box(0, (80, 60), (90, 70), STILL)
    assert session.neighbours(2) == (0, 4) and session.neighbours(0) is None
    change = session.interpolate(2)
    assert change.frames == (1, 2, 3)
    x, y = middle_of(session.marks[2] == MOVES)
    assert (x, y) == pytest.approx((36, 26), abs=1) and not (session.marks[2] == STILL).any()
    with pytest.raises(InputError, match="before this one"):
        session.interpolate(4)


def test_shapes_of_another_clip_are_none_of_this_one(scene, tmp_path):
    clips = replace(scene, clip=np.repeat([0, 1], [3, len(scene) - 3]))
    session = open_session(clips, tmp_path)
    session.box(0, (10, 10), (22, 22), MOVES)
    session.box(4, (50, 30), (62, 42), MOVES)
    assert session.neighbours(1) is None
    session.box(2, (30, 10), (42, 22), MOVES)
    assert session.neighbours(1) == (0, 2) and session.interpolate(1).frames == (1,)


def test_shapes_of_different_kinds_have_nothing_in_between(session):
    session.box(0, (10, 10), (22, 22), MOVES)
    session.box(2, (10, 10), (22, 22), STILL)
    with pytest.raises(InputError, match="no correction of the same kind"):
        session.interpolate(1)


def test_two_frames_have_to_stay(session):
    for k in range(3):
        session.flag("excluded", k, True)
    with pytest.raises(InputError, match="two frames"):
        session.flag("excluded", 3, True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda strokes: strokes[0].update(version=7),
        lambda strokes: strokes[0].update(position=9),
        lambda strokes: strokes[1].update(frame=99),
        lambda strokes: strokes[1]["patches"][0].update(height=900),
        lambda strokes: strokes[1]["patches"][0].update(after="AAAA"),
        lambda strokes: strokes[1]["patches"][0].update(top=-1),
        lambda strokes: strokes[1].update(patches=5),
        lambda strokes: strokes.__setitem__(1, None),
        lambda strokes: strokes[1].update(flag={"name": "excluded", "frame": 0, "before": 1, "after": 2}),
    ],
)
def test_damaged_strokes_are_refused_in_one_line(session, scene, tmp_path, damage):
    session.click(0, (100, 5), STILL)
    file = tmp_path / "corrections" / "corrections.json"
    facts = json.loads(file.read_text())
    damage(facts["strokes"])
    file.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="corrections of .* are damaged"):
        open_session(scene, tmp_path)


def test_strokes_of_other_frames_count_for_nothing_and_marks_stay(session, scene, tmp_path):
    session.click(0, (100, 5), STILL)
    file = tmp_path / "corrections" / "corrections.json"
    facts = json.loads(file.read_text())
    facts["strokes"][0]["frames"] = "0" * 16
    file.write_text(json.dumps(facts))
    again = open_session(scene, tmp_path)
    assert again.history.last is None and not again.mask(0)[FALSE].any()


def test_a_history_has_an_end(session, monkeypatch):
    monkeypatch.setattr(history, "MOST_ACTIONS", 3)
    for k in range(5):
        session.box(0, (10 * k, 0), (10 * k + 5, 5), MOVES)
    assert len(session.history.actions) == 3
    assert from_json(to_json(session.history, "f"), "f", session.shape, 5) == session.history
    for _ in range(3):
        session.undo()
    assert session.undo().what == "" and (session.marks[0] == MOVES).sum() == 50


def test_frames_that_were_left_out_can_be_taken_back(session, scene, tmp_path):
    """A dataset that was made without them has no row for them; what else is excluded stays."""
    session.flag("excluded", 3, True)
    file = tmp_path / "corrections" / "corrections.json"
    facts = json.loads(file.read_text())
    facts |= {"excluded": ["left_out_00001", "frame_00004"], "sources": {"left_out_00001": ["clip.mp4", 12]}}
    file.write_text(json.dumps(facts))
    again = open_session(scene, tmp_path)
    assert again.left_out() == ("clip.mp4, frame 12",) and again.flags["excluded"] == {3}
    again.box(0, (1, 1), (5, 5), MOVES)
    assert json.loads(file.read_text())["excluded"] == ["left_out_00001", "frame_00004"]
    assert again.take_back().what == "1 frame is no longer left out; solve again" and again.left_out() == ()
    assert json.loads(file.read_text())["excluded"] == ["frame_00004"] and again.take_back().what == ""


def test_a_dataset_that_was_made_with_corrections_still_shows_what_was_found(session, scene, tmp_path):
    session.click(0, (100, 5), STILL)
    session.box(1, (10, 60), (20, 70), MOVES)
    (tmp_path / "kept").mkdir()
    keep_found(tmp_path / "kept", scene)
    masks = np.stack([session.mask(k) for k in range(5)])
    made = replace(scene, dynamic=replace(scene.dynamic, masks=masks, objects=None))
    found = kept_found(tmp_path / "kept", made)
    again = Session(made, FolderStore(tmp_path, made), tmp_path, found)
    assert (again.found == scene.dynamic.masks).all() and (again.mask(0) == masks[0]).all()
    again.undo(), again.undo()
    assert all((again.mask(k) == scene.dynamic.masks[k]).all() for k in range(5))


@pytest.mark.parametrize("content", [None, b"", b"PK", b"x" * 100])
def test_kept_masks_that_cannot_be_read_are_none(scene, tmp_path, content):
    if content is not None:
        (tmp_path / "masks_found.npz").write_bytes(content)
    assert kept_found(tmp_path, scene) == {}
    keep_found(tmp_path / "missing", scene)
    assert not (tmp_path / "missing").exists()


def test_an_image_that_the_disk_refused_is_written_with_the_next_one(session, scene, tmp_path, monkeypatch):
    write = store.write_corrections

    def full(folder, corrections, *, changed) -> None:
        if changed:
            raise OutputError("the disk is full")
        write(folder, corrections, changed=changed)

    session.box(0, (1, 1), (5, 5), MOVES)
    monkeypatch.setattr(store, "write_corrections", full)
    with pytest.raises(OutputError, match="full"):
        session.box(0, (20, 20), (30, 30), MOVES)
    monkeypatch.undo()
    session.box(3, (1, 1), (5, 5), MOVES)
    assert everything(open_session(scene, tmp_path)) == everything(session)
    assert (session.marks[0] == MOVES).sum() == 4 * 4 + 10 * 10


def test_two_editors_of_one_dataset_do_not_overwrite_each_other(session, scene, tmp_path):
    other = open_session(scene, tmp_path)
    other.box(0, (1, 1), (5, 5), MOVES)
    with pytest.raises(OutputError, match="changed by another program: start the editor again"):
        session.box(1, (1, 1), (5, 5), MOVES)
    assert everything(open_session(scene, tmp_path)) == everything(other)
    assert session.history.last is None


def test_what_a_picture_program_paints_meanwhile_is_not_overwritten(session, scene, tmp_path):
    session.box(0, (1, 1), (5, 5), MOVES)
    (image,) = (tmp_path / "corrections").glob("*.png")
    painted = read_png(image)
    painted[20:30, 20:30] = STILL
    write_png(image, painted)
    with pytest.raises(OutputError, match=rf"{image.name} was changed by another program"):
        session.box(0, (7, 7), (9, 9), MOVES)
    assert (read_png(image) == painted).all()
    assert (open_session(scene, tmp_path).marks[0] == STILL).sum() > 50
