"""Results of other methods in their own layouts: known errors have their known scores, by the code that scores ours."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.cli.main import main
from easi3r_ns.core.errors import InputError, MissingExtraError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.evaluate import baselines
from easi3r_ns.evaluate.configurations import Wish
from easi3r_ns.evaluate.datasets import Capture
from easi3r_ns.evaluate.paper import evaluate_paper
from easi3r_ns.evaluate.peers import covering, method_of, score_folder, score_peers
from easi3r_ns.evaluate.sets import captures_of_set
from easi3r_ns.pipelines.run import RunConfig
from tests.support.peer_folders import WRITERS, write_cut3r, write_demo, write_masks
from tests.support.set_layouts import FOCAL, WH, Made, write_set

pytest.importorskip("evo", reason="pip install 'easi3r-ns[eval]' to test the scores of cameras")


def with_errors(made: Made) -> Made:
    """Cameras turned by one degree more in each frame, the depth of 6 of 30 columns half as far again (two are sky),
    and the upper half of what moves."""
    T, depth, moving = made.T_world_cam.copy(), made.depth.copy(), made.moving.copy()
    for k in range(len(T)):
        T[k, :3, :3] = cv2.Rodrigues(np.array([0.0, np.radians(k), 0.0]))[0] @ T[k, :3, :3]
    depth[:, :, 26:] *= 1.5
    moving[:, 12:] = False
    return Made(made.images, T, depth, moving)


@pytest.fixture(scope="module")
def sintel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made, list[Capture]]:
    folder = tmp_path_factory.mktemp("sintel")
    made = write_set("sintel", folder / "set")
    return folder / "set", made, captures_of_set("sintel", folder / "set", folder / "captures", ["alley_2", "temple_3"])


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made, list[Capture]]:
    folder = tmp_path_factory.mktemp("davis")
    made = write_set("davis-16", folder / "set")
    return folder / "set", made, captures_of_set("davis-16", folder / "set", folder / "captures", ["dog", "cow"])


@pytest.mark.parametrize("method", WRITERS)
def test_known_errors_have_their_known_scores(
    method: str, sintel: tuple[Path, Made, list[Capture]], davis: tuple[Path, Made, list[Capture]], tmp_path: Path
) -> None:
    WRITERS[method](tmp_path / "d", with_errors(davis[1]))
    if method not in ("cut3r", "da3"):  # which have no masks
        scores = score_folder(tmp_path / "d", davis[2][0])
        assert scores.masks.network == pytest.approx((0.5,) * 4) and scores.problems == ()
    else:
        scores = score_folder(tmp_path / "d", davis[2][0])
        assert scores.masks is None and scores.problems == ("masks: the folder has none",)
    WRITERS[method](tmp_path / "s", with_errors(sintel[1]))
    scores = score_folder(tmp_path / "s", sintel[2][0])
    if method == "das3r":
        assert scores.trajectory is None and scores.depth is None
        assert scores.problems == ("cameras: the folder has none", "depth: the folder has none")
        return
    assert scores.trajectory.rpe_rotation_deg == pytest.approx(1.0, abs=1e-4) and scores.trajectory.ate < 1e-6
    assert scores.depth.by_scale.delta == pytest.approx(0.8)
    assert scores.depth.by_scale.abs_rel == pytest.approx(0.1, abs=5e-4 if method == "vipe" else 1e-4)  # half floats
    assert abs(scores.focal_error) < 1e-6


def test_rows_of_others_stand_beside_ours_and_what_is_missing_is_counted(
    sintel: tuple[Path, Made, list[Capture]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, made, _ = sintel
    peers, out = tmp_path / "peers", tmp_path / "out"
    write_cut3r(peers / "cut3r" / "sintel" / "alley_2", made)
    write_demo(peers / "mine" / "temple_3", made)
    command = [
        "evaluate",
        "sintel",
        "--root",
        str(root),
        "--output-dir",
        str(out),
        "--sequences",
        "alley_2",
        "temple_3",
    ]
    main([*command, "--peers", str(peers), "--only-peers"])
    rows = {row["row"]: row for row in json.loads((out / "sintel" / "results.json").read_text())["rows"]}
    assert rows.keys() == {"imported-cut3r", "imported-mine"}
    errors = {r["sequence"]: r["error"] for r in rows["imported-cut3r"]["results"]}
    assert errors == {"alley_2": None, "temple_3": "there is no folder of this sequence"}
    page = (out / "sintel" / "results.md").read_text()
    assert "| temple_3 | imported-mine | 5 | 0.0000 |" in page and "| temple_3 | imported-cut3r | failed |" in page
    assert "4 runs, 2 failed" in page
    with pytest.raises(SystemExit) as end:
        main([*command, "--only-peers"])
    assert end.value.code == 2 and "--only-peers scores what --peers names" in capsys.readouterr().err


def test_cells_of_the_paper_are_filled_by_imported_results(
    davis: tuple[Path, Made, list[Capture]], tmp_path: Path
) -> None:
    root, made, _ = davis
    for method in ("das3r", "das3r-sam2", "vggt4d"):
        for name in ("dog", "cow"):
            write_masks(tmp_path / "peers" / method / "davis-16" / name, with_errors(made))
    wish = Wish(weights=("none",), motion=("auto",), refine_masks=("none",), sets=("davis-16",))
    evaluate_paper(
        *(root, tmp_path / "out", wish, RunConfig()),
        log=RunLog(), peers=tmp_path / "peers", reconstruct=lambda *_, **__: [],
    )  # fmt: skip
    cells = json.loads((tmp_path / "out" / "paper.json").read_text())["cells"]
    found = {
        (c["method"], c["measure"], c["configuration"]): c["ours"]
        for c in cells
        if c["set"] == "davis-16" and c["ours"] is not None
    }
    assert found == {
        ("DAS3R", "JM %", "imported-das3r"): pytest.approx(50),
        ("DAS3R", "JR %", "imported-das3r"): 0,
        ("DAS3R", "JM with SAM2 %", "imported-das3r-sam2"): pytest.approx(50),
        ("VGGT4D", "JM %", "imported-vggt4d"): pytest.approx(50),
        ("VGGT4D", "JR %", "imported-vggt4d"): 0,
    }
    assert method_of("imported-easi3r-monst3r") == ("Easi3R on MonST3R", False)


def test_smaller_maps_are_those_of_the_middle_of_the_frame(
    davis: tuple[Path, Made, list[Capture]], tmp_path: Path
) -> None:
    """Frames of 32x24 resized to 64x48 and cropped to 64x40, as networks do whose sides are multiples of a patch."""
    _, made, captures = davis
    large = made.moving.repeat(2, axis=1).repeat(2, axis=2)[:, 4:44]
    write_masks(tmp_path / "m", Made(made.images, made.T_world_cam, made.depth, large))
    (tmp_path / "m" / "masks").mkdir()
    for path in (tmp_path / "m").glob("*.png"):
        path.rename(tmp_path / "m" / "masks" / path.name)
    mapped = covering(WH, (64, 40), tmp_path)
    assert mapped.resized_wh == (64, 48) and mapped.crop_box == (0, 4, 64, 44)
    assert score_folder(tmp_path / "m", captures[0]).masks.network == (1.0,) * 4
    with pytest.raises(InputError, match="maps of 64x30 for frames of 32x24"):
        covering(WH, (64, 30), tmp_path)


def test_frames_are_told_by_their_count_or_names_and_never_guessed(
    sintel: tuple[Path, Made, list[Capture]], tmp_path: Path
) -> None:
    _, made, (capture, _) = sintel
    four = Made(made.images[:4], made.T_world_cam[:4], made.depth[:4], made.moving[:4])
    write_demo(tmp_path / "four", four)
    with pytest.raises(InputError, match="holds 4 frames, and the protocol takes 5: run the method on those frames"):
        score_folder(tmp_path / "four", capture)
    few = Made(made.images[1:], made.T_world_cam[1:], made.depth[1:], made.moving[1:])
    write_masks(tmp_path / "named", few)
    for k in range(4):
        (tmp_path / "named" / f"{k}.png").rename(tmp_path / "named" / f"frame_{k + 2:04d}.png")
    masked = replace(capture, masks={f"frame_{k + 1:04d}": tmp_path / f"{k}.png" for k in range(5)})
    for k in range(5):
        cv2.imwrite(str(tmp_path / f"{k}.png"), made.moving[k].astype(np.uint8) * 255)
    assert score_folder(tmp_path / "named", masked).masks.network == (0.0, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("damage", ["empty", "unreadable"])
def test_a_folder_that_cannot_be_read_is_a_failure_of_its_sequence(
    damage: str, davis: tuple[Path, Made, list[Capture]], tmp_path: Path
) -> None:
    _, made, captures = davis
    write_masks(tmp_path / "peers" / "das3r" / "dog", made)
    if damage == "empty":
        (tmp_path / "peers" / "das3r" / "cow").mkdir()
    else:
        write_masks(tmp_path / "peers" / "das3r" / "cow", made)
        (tmp_path / "peers" / "das3r" / "cow" / "1.png").write_bytes(b"x")
    dog, cow = score_peers(tmp_path / "peers", captures, tmp_path / "out", RunLog(), set_name="davis-16")
    assert dog.error is None and dog.scores.masks.network == (1.0,) * 4
    assert "cow" in cow.error and "\n" not in cow.error
    with pytest.raises(InputError, match="--peers gone is no folder"):
        score_peers(Path("gone"), captures, tmp_path / "out", RunLog())


STANDIN = f"""#!{sys.executable}
# Stands for ns-process-data: places all frames but the second where the file poses.json has them.
import json, shutil, sys
from pathlib import Path

given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "images", sys.argv
data, out = Path(given["--data"]), Path(given["--output-dir"])
poses = json.loads(Path(__file__).with_name("poses.json").read_text())
if "temple" in str(data):
    print("COLMAP found no cameras")
    sys.exit(0)
frames = []
for k, image in enumerate(sorted(data.iterdir()), start=1):
    (out / "images").mkdir(exist_ok=True)
    shutil.copy(image, out / "images" / f"frame_{{k:05d}}.png")
    if k != 2:
        frames.append({{"file_path": f"images/frame_{{k:05d}}.png", "transform_matrix": poses[k - 1]}})
lens = {{"w": {WH[0]}, "h": {WH[1]}, "fl_x": {FOCAL}, "fl_y": {FOCAL}, "cx": {WH[0] / 2}, "cy": {WH[1] / 2}}}
(out / "transforms.json").write_text(json.dumps({{**lens, "camera_model": "OPENCV", "frames": frames[::-1]}}))
"""


def test_what_a_user_would_run_instead(
    sintel: tuple[Path, Made, list[Capture]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made, captures = sintel
    command = tmp_path / "bin" / "ns-process-data"
    command.parent.mkdir()
    command.write_text(STANDIN)
    command.chmod(0o755)
    opengl = made.T_world_cam.copy()
    opengl[:, :3, 1:3] *= -1
    (tmp_path / "bin" / "poses.json").write_text(json.dumps(opengl.tolist()))
    monkeypatch.setattr(baselines, "_command", lambda: [str(command)])
    if os.name == "nt":
        pytest.skip("the stand-in is a script of a POSIX system")
    run = lambda **more: baselines.evaluate_ns_process_data(  # noqa: E731
        captures, tmp_path / "out", "ns-process-data", RunConfig(), again=False, log=RunLog(), **more
    )
    good, bad = run()
    assert good.scores.trajectory.num_frames == 4 and good.scores.trajectory.ate < 1e-6 and good.requested == 5
    assert abs(good.scores.focal_error) < 1e-9 and "depth: the folder has none" in good.scores.problems
    assert "left no transforms.json" in bad.error
    log = tmp_path / "out" / "ns-process-data" / "temple_3" / "log.txt"
    assert "COLMAP found no cameras" in log.read_text()
    stamp = (tmp_path / "out" / "ns-process-data" / "alley_2" / "transforms.json").stat().st_mtime_ns
    assert [result.error for result in run()] == [None, bad.error]
    assert (tmp_path / "out" / "ns-process-data" / "alley_2" / "transforms.json").stat().st_mtime_ns == stamp
    (tmp_path / "out" / "ns-process-data" / "alley_2" / "run.json").unlink()
    assert "is in the way" in run()[0].error and (log.parent.parent / "alley_2" / "transforms.json").exists()


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(baselines.shutil, "which", lambda name: None if name == "colmap" else f"/bin/{name}")
    with pytest.raises(MissingExtraError, match="calls the program colmap"):
        baselines.evaluate_ns_process_data([], tmp_path, "x", RunConfig(), again=False, log=RunLog())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(baselines.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtraError, match="nerfstudio's own processor"):
        baselines.evaluate_ns_process_data([], tmp_path, "x", RunConfig(), again=False, log=RunLog())
