"""A dataset solved again with its corrections: old and new side by side, taken or refused, and never lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.cli.main import main
from easi3r_ns.cli.redo import Redo
from easi3r_ns.cli.solving import why_not_again
from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.pipelines import run as run_module
from easi3r_ns.pipelines.again import (
    CancelledError,
    accept,
    again_folder,
    finish_accept,
    go_back,
    solve_again,
    waiting,
)
from easi3r_ns.pipelines.by_hand import changed_by_hand, follow_dataset, made_with, own_corrections, told
from easi3r_ns.pipelines.kept import keep_run, kept_run
from easi3r_ns.pipelines.run import WORKSPACE
from easi3r_ns.pipelines.side_by_side import compare_cameras
from easi3r_ns.storage.corrections import (
    AS_FOUND,
    FOLDER,
    MOVES,
    STILL,
    Corrections,
    frame_sources,
    read_corrections,
    write_corrections,
)
from easi3r_ns.storage.files import write_png
from easi3r_ns.storage.lock import only_writer
from easi3r_ns.storage.owned import claim, settle
from tests.support.killed_accept import InstantWithMasks, correct, made, marks, said, state
from tests.support.killed_run import SIZE, held

ROOT = Path(__file__).parents[2]
DONE = [[1, 3], [0], ["stroke"]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return made(tmp_path)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[InstantWithMasks]]:
    """Runs of the command line take the instant pipeline."""
    monkeypatch.setattr(run_module, "choose_pipeline", lambda config: InstantWithMasks())
    yield InstantWithMasks


def without_again(out: Path) -> dict[str, str]:
    return {name: content for name, content in held(out).items() if not name.startswith(f"{WORKSPACE}/again")}


def test_old_and_new_stand_side_by_side_until_one_is_taken(out: Path) -> None:
    correct(out)
    before = without_again(out)
    steps: list[tuple[str, int, int, str]] = []
    new = solve_again(out, progress=lambda *step: steps.append(step), pipeline=InstantWithMasks())
    assert new == waiting(out) == again_folder(out) and (state(out), state(new)) == ("old", "new")
    assert without_again(out) == before and made_with(out) is None and made_with(new) is not None
    assert ("find cameras from features (mapping)", 4, 4, "frames") in steps
    change = compare_cameras(out, new)
    assert (change.frames, change.only_old, change.only_new) == (4, 1, 0)
    assert change.distance.max() < 1e-6 and change.rotation_deg.max() < 1e-3
    assert change.moving_old == 0 and change.moving_new == pytest.approx(0.25 / 2, abs=0.02)
    assert "0.0 % of the picture moved before, 12.5 % now" in str(change)
    accept(out)
    assert state(out) == "new" and waiting(out) is None and not again_folder(out).exists() and said(out) == DONE
    assert sorted(read_corrections(out / FOLDER).marks) == ["frame_00001", "frame_00003"]
    assert (out / FOLDER / "notes.txt").read_text(encoding="utf-8") == "mine"
    kept = kept_run(out / WORKSPACE).config
    assert kept.easi3r.corrections == out / FOLDER and changed_by_hand(out, kept) is None
    with pytest.raises(InputError, match="was not made again"):
        accept(out)


def test_kept_stages_are_shared(out: Path) -> None:
    correct(out)
    new = solve_again(out, pipeline=InstantWithMasks())
    shared = [file for file in (out / WORKSPACE / "frames").iterdir() if file.suffix == ".png"]
    assert shared and all(file.samefile(new / WORKSPACE / "frames" / file.name) for file in shared)


def test_going_back_leaves_the_old_one(out: Path) -> None:
    own = correct(out)
    before = held(out)
    solve_again(out, replace(own, excluded=()), pipeline=InstantWithMasks())
    assert len(read_scene(again_folder(out) / "scene")) == 5
    go_back(out)
    assert held(out) == before and state(out) == "old" and waiting(out) is None


def test_a_stop_changes_nothing_and_the_next_one_goes_on(out: Path) -> None:
    correct(out)
    before = without_again(out)
    asked = iter([False] * 6)
    with pytest.raises(CancelledError, match="as it was"):
        solve_again(out, cancel=lambda: next(asked, True), pipeline=InstantWithMasks())
    assert without_again(out) == before and waiting(out) is None
    assert state(solve_again(out, pipeline=InstantWithMasks())) == "new"


def test_what_was_made_from_another_dataset_is_not_taken(out: Path, instant: object) -> None:
    correct(out)
    solve_again(out, pipeline=InstantWithMasks())
    Redo.command_line([str(out), "--mask-growth", "1", "--no-corrections"], "easi3r redo")
    with pytest.raises(InputError, match="has changed since it was solved again"):
        accept(out)
    solve_again(out, pipeline=InstantWithMasks())
    (again_folder(out) / "base.json").write_text("[1")
    with pytest.raises(InputError, match="solve it again, or go back"):
        accept(out)
    solve_again(out, pipeline=InstantWithMasks())
    with only_writer(out), pytest.raises(OutputError, match="another run"):
        accept(out)
    accept(out)
    assert [index for _, index, _ in frame_sources(out).values()] == [1, 2, 3, 4]


def test_files_of_the_user_stop_it(out: Path) -> None:
    correct(out)
    own = correct(out)
    excluding = replace(own, excluded=())
    write_corrections(out / FOLDER, excluding)
    solve_again(out, pipeline=InstantWithMasks())
    file = next(iter((again_folder(out) / "masks_objects").iterdir())).relative_to(again_folder(out))
    (out / file).parent.mkdir(exist_ok=True)
    (out / file).write_bytes(b"mine")
    with pytest.raises(OutputError, match="in the way"):
        accept(out)
    assert state(out) == "old" and (out / file).read_bytes() == b"mine"


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_dataset_and_the_corrections(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.killed_accept", str(tmp_path), "7"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["whole"] == ["new", DONE] and report["operations"] > 100
    taken = set()
    for killed in report["results"]:
        assert killed["killed"] == {"status": -9} and killed["again"] == {}
        place, beside = killed["left"]
        assert place in ("none", "old", "new") and (place != "none" or beside == "new"), killed
        dataset, waits, what = killed["after"]
        assert (dataset, waits) in (("old", True), ("new", False)) and what == DONE and killed["notes"] == "mine"
        assert killed["names"][-1] == ("frame_00004" if dataset == "old" else "left_out_00001"), killed
        taken.add(dataset)
    assert "new" in taken


def test_redo_takes_what_lies_beside_the_dataset(
    out: Path, instant: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["redo", str(out)])
    own = correct(out)
    write_corrections(out / FOLDER, replace(own, excluded=()))
    capsys.readouterr()
    main(["redo", str(out)])
    printed = capsys.readouterr().out
    assert "changed: corrections of 2 frames; made again: masks, cameras, depth, second look, dataset" in printed
    masks = read_scene(out / "scene").dynamic.masks
    assert masks.any(axis=(1, 2)).tolist() == [False, True, False, True, False]
    with pytest.raises(SystemExit):
        main(["redo", str(out)])
    assert "made with these options already" in " ".join(capsys.readouterr().err.split())
    write_corrections(out / FOLDER, own)
    main(["redo", str(out)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "corrections of 2 frames, 1 frame excluded; made again: frames, what moves" in printed
    assert state(out) == "new"
    main(["redo", str(out), "--mask-growth", "1"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "changed: --mask-growth 1; made again: dataset" in printed and len(frame_sources(out)) == 4
    main(["redo", str(out), "--no-corrections"])
    assert "changed: no corrections" in capsys.readouterr().out
    assert len(frame_sources(out)) == 5 and not read_scene(out / "scene").dynamic.masks.any()
    assert sorted(own_corrections(out).marks) == ["frame_00002", "frame_00004"]
    assert own_corrections(out).excluded == ("frame_00001",)


def test_images_that_were_painted_by_hand_stay_with_their_frames(out: Path, instant: object) -> None:
    write_corrections(out / FOLDER, Corrections(SIZE, excluded=("frame_00001",)))
    write_png(out / FOLDER / "frame_00002.png", marks())
    main(["redo", str(out)])
    assert [index for _, index, _ in frame_sources(out).values()] == [1, 2, 3, 4]
    assert list(read_corrections(out / FOLDER).marks) == ["frame_00001"]
    assert read_scene(out / "scene").dynamic.masks.any(axis=(1, 2)).tolist() == [True, False, False, False]


def test_corrections_that_cannot_be_read_stop_a_redo_and_stay(out: Path) -> None:
    correct(out)
    (out / FOLDER / "corrections.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="corrections.json is damaged"):
        Redo.command_line([str(out)], "easi3r redo")
    with pytest.raises(InputError, match="corrections.json is damaged"):
        solve_again(out, pipeline=InstantWithMasks())
    finish_accept(out)
    assert state(out) == "old" and (out / FOLDER / "frame_00002.png").is_file()


def test_other_corrections_can_be_named(out: Path, tmp_path: Path, instant: object) -> None:
    correct(out)
    write_corrections(tmp_path / "others", Corrections(SIZE, {"frame_00005": marks()}))
    main(["redo", str(out), "--corrections", str(tmp_path / "others")])
    assert read_scene(out / "scene").dynamic.masks.any(axis=(1, 2)).tolist() == [False] * 4 + [True]
    assert said(out)[0] == [1, 3]


def test_corrections_from_elsewhere_are_never_left_out_in_silence(
    out: Path, tmp_path: Path, instant: object, capsys: pytest.CaptureFixture[str]
) -> None:
    others = tmp_path / "others"
    write_corrections(others, Corrections(SIZE, {"frame_00005": marks()}))
    main(["redo", str(out), "--corrections", str(others)])
    correct(out)
    before = held(out)
    with pytest.raises(InputError, match="was made with the corrections in .*others: copy them"):
        solve_again(out, pipeline=InstantWithMasks())
    assert "others" in why_not_again(read_scene(out / "scene"), out)
    with pytest.raises(InputError, match="others.*and there are others in .*corrections: say which"):
        Redo.command_line([str(out), "--mask-growth", "1"], "easi3r redo")
    assert held(out) == before
    main(["redo", str(out), "--corrections", str(out / FOLDER)])
    assert state(solve_again(out, pipeline=InstantWithMasks())) == "new"


def test_what_else_lies_beside_the_corrections_stays(out: Path, instant: object) -> None:
    correct(out)
    folder = out / FOLDER
    (folder / "frame_00003.xcf").write_bytes(b"layers")
    (folder / "work").mkdir()
    (folder / "work" / "draft.png").write_bytes(b"draft")
    (folder / "link").symlink_to("notes.txt")
    solve_again(out, pipeline=InstantWithMasks())
    accept(out)
    assert sorted(read_corrections(folder).marks) == ["frame_00001", "frame_00003"]
    assert (folder / "frame_00003.xcf").read_bytes() == b"layers"
    assert (folder / "work" / "draft.png").read_bytes() == b"draft"
    assert (folder / "link").is_symlink() and (folder / "link").read_text(encoding="utf-8") == "mine"


def test_masks_of_an_earlier_run_that_are_in_use_stay(out: Path, instant: object) -> None:
    correct(out)
    for used in (True, False):
        masks = out / "partial" / "masks"
        masks.mkdir(parents=True, exist_ok=True)
        claim(out / "partial", ["masks/frame_00001.png"])
        (masks / "frame_00001.png").write_bytes(b"mask")
        settle(out / "partial", ["masks/frame_00001.png"])
        kept = kept_run(out / WORKSPACE)
        keep_run(out / WORKSPACE, kept.data, replace(kept.config, easi3r=replace(kept.config.easi3r, masks=masks)))
        solve_again(out, pipeline=InstantWithMasks())
        if not used:
            made_again = kept_run(again_folder(out) / WORKSPACE)
            easi3r = replace(made_again.config.easi3r, masks=None)
            keep_run(again_folder(out) / WORKSPACE, made_again.data, replace(made_again.config, easi3r=easi3r))
        accept(out)
        assert (masks / "frame_00001.png").is_file() == used


def test_nothing_is_done_where_nothing_is_said(out: Path) -> None:
    assert own_corrections(out) is None
    (out / FOLDER).mkdir()
    assert own_corrections(out) is None and not list((out / FOLDER).iterdir())
    follow_dataset(out)
    write_corrections(out / FOLDER, Corrections(SIZE, strokes=["looked"]))
    assert own_corrections(out) is None
    assert told(Corrections(SIZE)) == "no corrections"
    assert state(solve_again(out, log=RunLog(), pipeline=InstantWithMasks())) == "old"


def test_the_distance_is_in_parts_of_the_path(out: Path) -> None:
    scene = read_scene(out / "scene")
    moved = scene.T_world_cam.copy()
    moved[2, 1, 3] += 0.04
    turned = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    moved[:, :3] = turned @ moved[:, :3]
    moved[:, :3, 3] *= 3
    change = compare_cameras(scene, replace(scene, T_world_cam=moved))
    np.testing.assert_allclose(change.distance, [0, 0, 10, 0, 0], atol=1e-6)
    stays = replace(scene, T_world_cam=np.tile(np.eye(4), (5, 1, 1)))
    assert np.isnan(compare_cameras(stays, scene).distance).all() and "turned by 0" in str(
        compare_cameras(stays, scene)
    )


def two_objects() -> np.ndarray:
    """Two corners move."""
    image = marks()
    image[-12:, -16:] = MOVES
    return image


def test_objects_are_dropped_by_their_ids(out: Path, instant: object, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(frame_sources(out))
    write_corrections(out / FOLDER, Corrections(SIZE, dict.fromkeys(names, two_objects()), ["stroke"]))
    main(["redo", str(out)])
    assert set(np.unique(read_scene(out / "scene").dynamic.objects)) == {0, 1, 2}
    for ids, why in (("3", "has no object 3: the ids in masks_objects are 1, 2"), ("2;x", "give ids as in")):
        with pytest.raises(InputError, match=why):
            Redo.command_line([str(out), "--drop-objects", ids], "easi3r redo")
    with pytest.raises(InputError, match="leave the other corrections out"):
        Redo.command_line([str(out), "--drop-objects", "2", "--no-corrections"], "easi3r redo")
    capsys.readouterr()
    main(["redo", str(out), "--keep-objects", "1"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "objects that stand still: 2" in printed and "made again: masks, cameras" in printed
    scene = read_scene(out / "scene")
    large = scene.dynamic.masks[:, : scene.images.shape[1] // 3, : scene.images.shape[2] // 3]
    assert large.all() and set(np.unique(scene.dynamic.objects)) == {0, 1} and scene.dynamic.masks[:, -5:].sum() == 0
    main(["redo", str(out), "--drop-objects", "1"])
    assert not read_scene(out / "scene").dynamic.masks.any()
    own = read_corrections(out / FOLDER)
    assert set(np.unique(own.marks[names[2]])) == {AS_FOUND, STILL}
    assert not own.strokes, "undo in the editor would take the objects back"
    with pytest.raises(InputError, match="ids in masks_objects are none"):
        Redo.command_line([str(out), "--drop-objects", "1"], "easi3r redo")
