"""Miniatures of published sets in their layouts: the truth scores perfectly, a known error as it must."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.cli.main import main
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.evaluate.datasets import Capture
from easi3r_ns.evaluate.layouts import LAYOUTS, clips_of_set
from easi3r_ns.evaluate.published import SOURCE, latex
from easi3r_ns.evaluate.runs import kinds_of_truth
from easi3r_ns.evaluate.scoring import SequenceScores, score_scene
from easi3r_ns.evaluate.sets import LONG_GRAPH, captures_of_set, evaluate_set
from easi3r_ns.evaluate.tables import Result, Section
from easi3r_ns.pipelines.run import RunConfig
from easi3r_ns.storage.files import write_json
from tests.support.set_layouts import MINIATURES, Made, made_clip, write_dycheck, write_set

pytest.importorskip("evo", reason="pip install 'easi3r-ns[eval]' to test the scores of cameras")
SETS = sorted(MINIATURES)


def found(name: str, folder: Path) -> tuple[Made, list[Capture]]:
    made = write_set(name, folder / "set")
    return made, captures_of_set(name, folder / "set", folder / "captures", MINIATURES[name].names)


def names_of(capture: Capture) -> list[str]:
    return sorted(path.name for path in capture.data.iterdir())


@pytest.mark.parametrize("name", SETS)
def test_the_truth_of_a_set_scores_perfectly(name: str, tmp_path: Path) -> None:
    made, captures = found(name, tmp_path)
    taken = list(MINIATURES[name].taken)
    assert [capture.name for capture in captures] == list(MINIATURES[name].names)
    scores = score_scene(made.scene(taken, names_of(captures[0])), captures[0])
    assert scores.problems == () and scores.num_frames == len(taken)
    assert scores.trajectory is None or scores.trajectory.ate < 1e-6
    assert scores.trajectory is None or scores.trajectory.num_frames == len(taken)
    assert scores.trajectory is None or scores.trajectory.rpe_rotation_deg < 1e-4
    assert scores.masks is None or scores.masks.network == scores.masks.source == (1.0,) * len(taken)
    assert scores.depth is None or scores.depth.by_scale.abs_rel < 1e-3
    assert scores.focal_error is None or name.startswith("tum") or abs(scores.focal_error) < 1e-9


def test_sets_offer_the_truth_that_they_have(tmp_path: Path) -> None:
    kinds = {name: kinds_of_truth(found(name, tmp_path / name)[1][0]) for name in SETS}
    assert kinds["davis-16"] == kinds["davis-all"] == ("masks",) and kinds["bonn"] == ("depth",)
    assert kinds["kitti"] == kinds["adt"] == ("cameras",)
    assert kinds["sintel"] == kinds["tum-dynamics"] == kinds["dycheck"] == ("cameras", "depth")


def test_known_errors_have_their_known_scores(tmp_path: Path) -> None:
    made, (capture, _) = found("sintel", tmp_path)
    taken, names = list(MINIATURES["sintel"].taken), names_of(capture)
    turned = made.T_world_cam[taken].copy()
    for k in taken:  # about their own centres, by one degree more in each frame
        turned[k, :3, :3] = cv2.Rodrigues(np.array([0.0, np.radians(k), 0.0]))[0] @ turned[k, :3, :3]
    depth = made.depth[taken].copy()
    depth[:, :, 26:] *= 1.5  # 6 of 30 columns: two are sky
    scores = score_scene(made.scene(taken, names, T_world_cam=turned, depth=depth), capture)
    assert scores.trajectory.rpe_rotation_deg == pytest.approx(1.0, abs=1e-6) and scores.trajectory.ate < 1e-9
    assert scores.depth.by_scale.delta == pytest.approx(0.8) and scores.depth.by_scale.abs_rel == pytest.approx(0.1)
    made, (capture, _) = found("davis-16", tmp_path / "davis")
    half = made.moving.copy()
    half[:, 12:] = False  # the upper half of what moves
    scores = score_scene(made.scene([0, 1, 2, 3], names_of(capture), moving=half), capture)
    assert scores.masks.network == pytest.approx((0.5,) * 4)


def test_long_clips_of_davis_are_paired_over_shorter_windows(tmp_path: Path) -> None:
    small = replace(MINIATURES["davis-16"], count=96, names=("dog", "cow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MINIATURES, "davis-16", small)
        _, captures = found("davis-16", tmp_path)
    assert {capture.graph for capture in captures} == {LONG_GRAPH}
    assert {capture.graph for capture in found("kitti", tmp_path / "kitti")[1]} == {""}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_empty_folder_is_one_line_that_says_where_the_set_comes_from(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        clips_of_set(LAYOUTS[name], tmp_path)
    said = str(caught.value)
    assert str(tmp_path) in said and "https://" in said.replace("http://", "https://") and "\n" not in said


def test_a_missing_sequence_is_named_unless_others_are_asked_for(tmp_path: Path) -> None:
    write_set("sintel", tmp_path)
    with pytest.raises(
        InputError, match=r"12 of 14 sequences of Sintel cannot be read \(ambush_4, .*--sequences names"
    ):
        clips_of_set(LAYOUTS["sintel"], tmp_path)
    assert [clip.name for clip in clips_of_set(LAYOUTS["sintel"], tmp_path, ["temple_3"])] == ["temple_3"]
    with pytest.raises(InputError, match="alley_9 is no sequence of Sintel: there are alley_2"):
        clips_of_set(LAYOUTS["sintel"], tmp_path, ["alley_9"])
    with pytest.raises(InputError, match="2 of 3 sequences"):
        clips_of_set(LAYOUTS["sintel"], tmp_path, smoke=True)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("sintel", "training/camdata_left/alley_2/frame_0001.cam", b"short"),
        ("sintel", "training/depth/alley_2/frame_0001.dpt", b"PIEH" + bytes(8)),
        ("kitti", "dataset/poses/00.txt", b"1 2 3\n"),
        ("kitti", "dataset/sequences/00/calib.txt", b"P0: 1\n"),
        ("tum-dynamics", "rgbd_dataset_freiburg3_sitting_xyz/groundtruth.txt", b"a b c\n"),
        ("adt", "Apartment_a.npz", b"PK"),
        ("dycheck", "apple/splits/train.json", b"[]"),
        ("dycheck", "apple/camera/0_00000.json", b"{}"),
    ],
)
def test_a_damaged_file_is_named(name: str, file: str, content: bytes, tmp_path: Path) -> None:
    write_set(name, tmp_path / "set")
    (tmp_path / "set" / file).write_bytes(content)
    with pytest.raises(InputError, match=Path(file).name):
        captures_of_set(name, tmp_path / "set", tmp_path / "captures", MINIATURES[name].names[:1])


@pytest.mark.parametrize("error", [OSError("rights"), IndexError("7"), np.linalg.LinAlgError("SVD"), KeyError("fl_x")])
def test_damage_that_no_reader_knows_is_one_line_too(error: Exception, tmp_path: Path) -> None:
    write_set("sintel", tmp_path)

    def read(folder: Path, name: str) -> None:
        raise error

    with pytest.raises(InputError, match="1 of 1 sequences of Sintel .* alley_2 is damaged") as caught:
        clips_of_set(replace(LAYOUTS["sintel"], read=read), tmp_path, ["alley_2"])
    assert "\n" not in str(caught.value)


def test_a_capture_holds_what_its_files_hold_now(tmp_path: Path) -> None:
    _, (capture, *_) = found("davis-16", tmp_path)
    names = names_of(capture)
    for kind in ("JPEGImages", "Annotations"):
        last = sorted((tmp_path / "set" / kind / "480p" / capture.name).iterdir())[-1]
        last.unlink()
    (again,) = captures_of_set("davis-16", tmp_path / "set", tmp_path / "captures", [capture.name])
    assert names_of(again) == names[:-1] and len(list((again.data.parent / "masks").iterdir())) == len(names) - 1


class Harmful:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.mkdir, ("harmed",)


def test_a_pickle_of_a_stranger_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_set("adt", tmp_path / "set")
    with np.load(tmp_path / "set" / "Apartment_a.npz", allow_pickle=True) as archive:
        arrays = dict(archive)
    arrays["images_jpeg_bytes"] = np.array([Harmful()], dtype=object)
    np.savez(tmp_path / "set" / "Apartment_a.npz", **arrays)
    with pytest.raises(InputError, match="mkdir is no part of an array"):
        captures_of_set("adt", tmp_path / "set", tmp_path / "captures", ["Apartment_a"])
    assert not Path("harmed").exists() and pickle.dumps(Harmful())


def told(made: Made, name: str, change: Callable[[Scene], Scene], failed: str = "") -> Callable[..., list[Result]]:
    """Stands for the runs: each sequence becomes the truth with a change, or fails."""

    def reconstruct(captures: list[Capture], folder: Path, row: str, config: RunConfig, **_: object) -> list[Result]:
        results = []
        for capture in captures:
            result = Result(row, capture.name, kinds_of_truth(capture))
            if capture.name == failed:
                results.append(replace(result, error="no cameras were found"))
                continue
            scene = change(made.scene(list(MINIATURES[name].taken), names_of(capture)))
            scores: SequenceScores = score_scene(scene, capture)
            results.append(replace(result, scores=scores))
        entry = {"row": row, "options": "", "version": "0", "results": [asdict(result) for result in results]}
        write_json(folder / f"{row}.json", entry)
        return results

    return reconstruct


def evaluated(name: str, tmp_path: Path, change: Callable[[Scene], Scene], failed: str = "") -> list[Section]:
    made = write_set(name, tmp_path / "set")
    config = replace(RunConfig(), easi3r=replace(RunConfig().easi3r, weights="none"))
    tables, _ = evaluate_set(
        *(name, tmp_path / "set", tmp_path / "out", config, lambda weights: "ours"),
        sequences=MINIATURES[name].names,
        log=RunLog(),
        reconstruct=told(made, name, change, failed),
    )
    return tables


def test_published_numbers_stand_beside_ours_and_failures_are_counted(tmp_path: Path) -> None:
    tables = evaluated("davis-16", tmp_path, lambda scene: scene, failed="cow")
    lines = {line[0]: line[1:] for line in tables[0].lines}
    assert lines["Easi3R on MonST3R"] == (SOURCE, "57.7", "71.6", "70.7", "-")
    assert lines["ours"] == ("here", "100.0", "100.0", "-", "1 scored, 1 failed")
    written = tmp_path / "out" / "davis-16"
    assert "| ours | here | 100.0 |" in (written / "results.md").read_text()
    assert r"DUSt3R (flow) & arXiv:2503.24391 v1 & 42.1 & 45.7 & 58.5 & - \\" in (written / "results.tex").read_text()
    assert "davis-16: published and ours,ours,here,100.0,100.0" in (written / "results.csv").read_text()


def test_cameras_beside_the_published_ones(tmp_path: Path) -> None:
    (table, *_) = evaluated("dycheck", tmp_path, lambda scene: scene)
    lines = {line[0]: line[1:] for line in table.lines}
    assert lines["Easi3R on DUSt3R"] == (SOURCE, "0.021", "0.014", "1.092", "-")
    assert lines["ours"] == ("here", "0.000", "0.000", "0.000", "2 scored, 0 failed")


def test_letters_that_latex_takes_for_its_own_are_escaped() -> None:
    text = latex([Section("t", "", ("", "a", "50 %"), (("x_y", r"\cmd{}", "1 & 2"),))])
    assert r"50 \%" in text and r"x\_y & \textbackslash{}cmd\{\} & 1 \& 2 \\" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["davis-18", "--root", "."], "davis-18 is no set that is known: there are davis-16"),
        (["set", "kitti", "--root", "."], "does not hold KITTI odometry: dataset/ with sequences and poses is missing"),
        (["adt", "--root", "gone"], "gone does not hold ADT"),
    ],
)
def test_the_command_says_in_one_line_what_is_missing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *arguments])
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def first_scores(root: Path, folder: Path, made: Made, **changed: np.ndarray) -> tuple[SequenceScores, Capture]:
    (capture,) = captures_of_set("dycheck", root, folder, ["apple"])
    taken = list(MINIATURES["dycheck"].taken)
    return score_scene(made.scene(taken, names_of(capture), **changed), capture), capture


@pytest.mark.parametrize("kind", ["model", "matrices", "lists"])
def test_refined_cameras_of_dycheck_come_before_those_of_the_phone(kind: str, tmp_path: Path) -> None:
    made = made_clip(MINIATURES["dycheck"].count)
    write_dycheck(tmp_path / "set", "apple", made, refined=True)
    processed, names = tmp_path / "set" / "apple" / "flow3d_preprocessed", [f"0_{k:05d}" for k in range(45)]
    w2c = [T.tolist() for T in np.linalg.inv(made.T_world_cam)]
    if kind != "model":
        shutil.rmtree(processed / "colmap")
        content = dict(zip(names, w2c, strict=True)) if kind == "matrices" else {"frame_names": names, "w2cs": w2c}
        (processed / "aside.json").write_text('{"scale": 1.0, "rows": [[1], [1, 2]]}')
        (processed / "refined.json").write_text(json.dumps(content))
    scores, capture = first_scores(tmp_path / "set", tmp_path / "captures", made)
    assert scores.trajectory.ate < 1e-6 and scores.points.distance < 1e-5 and capture.remark == ""
    assert abs(scores.focal_error) < 1e-9
    for path in [*processed.glob("*.json"), *processed.glob("colmap/sparse/*")]:
        path.unlink()
    scores, capture = first_scores(tmp_path / "set", tmp_path / "captures", made)
    assert scores.trajectory.ate > 0.1 and "those of the phone" in capture.remark


def test_points_have_their_known_distances(tmp_path: Path) -> None:
    made = made_clip(MINIATURES["dycheck"].count)
    write_dycheck(tmp_path / "set", "apple", made, refined=True)
    taken = list(MINIATURES["dycheck"].taken)
    turned = made.T_world_cam[taken].copy()  # another world: turned, moved and three times as large
    away = np.eye(4)
    away[:3, :3] = cv2.Rodrigues(np.array([0.3, -1.0, 0.4]))[0]
    away[:3, 3] = 5, -2, 1
    turned[:, :3, 3] *= 3
    turned = away @ turned
    scores, _ = first_scores(
        tmp_path / "set", tmp_path / "captures", made, T_world_cam=turned, depth=3 * made.depth[taken]
    )
    assert max(scores.points.accuracy, scores.points.completeness, scores.points.distance) < 1e-5
    farther = 1.25 * made.depth[taken]
    scores, _ = first_scores(tmp_path / "set", tmp_path / "captures", made, depth=farther)
    x, y = np.meshgrid((np.arange(32) - 15.5) / 30, (np.arange(24) - 11.5) / 30)
    along = 0.25 * made.depth[taken] * np.sqrt(x**2 + y**2 + 1)
    assert scores.points.distance == pytest.approx(along.mean(), rel=1e-5)
    assert 0 < scores.points.accuracy < scores.points.distance
    near = made.depth[taken].copy()
    near[:, :, 8:] = 0  # a quarter of the picture: what is there is right, and most is missing
    scores, _ = first_scores(tmp_path / "set", tmp_path / "captures", made, depth=near)
    assert scores.points.accuracy < 1e-5 < 0.05 < scores.points.completeness
