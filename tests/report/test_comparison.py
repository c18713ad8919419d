"""Datasets of one clip side by side: what differs is measured, and the page loads nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.cli.compare import Compare, short_names
from easi3r_ns.cli.main import main
from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.core.scene import Scene, move_scene
from easi3r_ns.core.similarity import Similarity
from easi3r_ns.dataset.scene_folder import write_scene
from easi3r_ns.report import comparison
from easi3r_ns.report.comparison import (
    Compared,
    comparison_frames,
    comparison_page,
    depth_difference,
    lay_together,
    mask_agreement,
    write_comparison,
)
from easi3r_ns.training.scenes import render_clip
from easi3r_ns.view.look import Look
from tests.support.clip_scene import perfect_scene

ELSEWHERE = Similarity(0.4, Rotation.from_rotvec([0.2, 1.1, -0.4]).as_matrix(), np.array([3.0, -1.0, 2.0]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    clip = render_clip(5, 6, 72, 96, num_movers=1)
    stages = [{"name": "x", "seconds": 12.0, "cpu_seconds": 20.0, "peak_memory_bytes": 2**30}]
    scene = perfect_scene(clip, tmp_path_factory.mktemp("images"))
    return replace(scene, provenance={"version": "1.2", "weights": {"name": "tiny"}, "stages": stages})


@pytest.fixture(scope="module")
def other(scene: Scene) -> Scene:
    """The same in another world, without the first frame, with half the mask and one camera that is off."""
    kept = np.arange(1, 6)
    masks = scene.dynamic.masks[kept].copy()
    masks[:, :, ::2] = False
    names = ("images", "T_world_cam", "focals", "depth", "confidence", "times", "indices")
    part = {name: getattr(scene, name)[kept] for name in names}
    found = replace(
        scene,
        **part,
        names=scene.names[1:],
        source_paths=scene.source_paths[1:],
        dynamic=replace(scene.dynamic.of_frames(kept), masks=masks),
        provenance={"imported": "COLMAP"},
    )
    poses = found.T_world_cam.copy()
    poses[2, :3, :3] = poses[2, :3, :3] @ Rotation.from_euler("y", 3, degrees=True).as_matrix()
    return move_scene(replace(found, T_world_cam=poses, depth=found.depth * 1.05), ELSEWHERE)


@pytest.fixture(scope="module")
def together(scene: Scene, other: Scene) -> list[Compared]:
    return lay_together(["a", "b"], [scene, other])


def test_another_world_is_laid_on_the_first_one(scene: Scene, together: list[Compared]) -> None:
    first, second = together
    assert first.scene is scene and first.rows.tolist() == [1, 2, 3, 4, 5] and second.rows.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(second.cameras[:, :3, 3], first.cameras[:, :3, 3], atol=0.02)
    page = comparison_page(together, "", lambda steps: None)
    table = dict(page.table)
    assert table["frames"] == ("6", "5") and page.shared == "5 frames in common"
    assert table["made by"] == ("easi3r-ns 1.2 with --weights tiny", "COLMAP (imported)")
    assert table["masks in common, mean IoU"][0] == "-" and 0.4 < float(table["masks in common, mean IoU"][1]) < 0.6
    assert float(table["static depth apart, median"][1].removesuffix(" %")) == pytest.approx(4.9, abs=0.3)
    assert float(table["cameras apart, median"][1].split()[0]) < 1
    assert table["focal length, of the width"][0] == table["focal length, of the width"][1]
    assert dict(page.timings)["time"] == ("12 s", "not recorded")
    assert len(page.mask_rows) == len(page.depth_rows) == 4 and len(page.mask_rows[0]) == 2


def test_of_cameras_that_stay_depth_tells_the_scale(scene: Scene) -> None:
    poses = scene.T_world_cam.copy()
    poses[:, :3, 3] = [1.0, 2.0, 3.0]
    first = replace(scene, T_world_cam=poses)
    larger = move_scene(replace(first, depth=3 * scene.depth), Similarity(1.0, ELSEWHERE.R, ELSEWHERE.t))
    together = lay_together(["a", "b"], [first, larger])
    np.testing.assert_allclose(together[1].cameras, together[0].cameras, atol=1e-9)
    np.testing.assert_allclose(together[1].depth, together[0].depth, rtol=1e-5)
    table = dict(comparison_page(together, "", lambda steps: None).table)
    assert table["static depth apart, median"][1] == "0 %" and table["cameras apart, median"][1] == "the camera stays"
    assert table["cameras turned, median"][1] == "0°"


def test_pictures_are_of_the_same_moment(together: list[Compared], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    def picture(painter: object, track: object, images: object, look: Look, *others: object) -> np.ndarray:
        shown.append(look.frame)
        return np.zeros((40, 40, 3), np.uint8)

    monkeypatch.setattr(comparison, "picture", picture)
    comparison_page(together, "", lambda steps: None)
    moment = int(together[0].masks.mean(axis=(1, 2)).argmax())
    assert shown == [moment + 1, moment] and moment > 0, "the frame of most motion, in the rows of each"
    shown.clear()
    monkeypatch.setattr(comparison, "VIDEO_SECONDS", 1)
    monkeypatch.setattr(comparison, "VIDEO_FPS", 5)
    assert len(list(comparison_frames(together))) == 5
    assert shown == [1, 0, 2, 1, 3, 2, 4, 3, 5, 4]


def test_what_is_not_trusted_has_no_depth_and_what_was_cropped_counts(scene: Scene) -> None:
    wide = replace(scene.pixel_map, resized_wh=(2 * scene.pixel_map.resized_wh[0], scene.pixel_map.resized_wh[1]))
    doubted = replace(scene, min_confidence=1e6)
    first, second = lay_together(["a", "b"], [scene, doubted])
    assert first.depth.any() and not second.depth.any()
    page = comparison_page([first, replace(second, scene=replace(doubted, pixel_map=wide))], "", lambda steps: None)
    whole, part = dict(page.table)["focal length, of the width"]
    assert float(part) == pytest.approx(float(whole) / 2, rel=0.01)


def test_agreement_and_difference_have_known_values() -> None:
    ours, theirs = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), bool)
    ours[0, :2], theirs[0, 1:3], theirs[1, 0, 0] = True, True, True
    np.testing.assert_allclose(mask_agreement(ours, theirs), [1 / 3, 0, np.nan])
    depth = np.full((3, 4, 4), 2.0)
    other = depth * np.exp([[[0.1]], [[-0.2]], [[0.0]]])
    other[2] = 0
    other[0, 0] = 50.0
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 0] = True
    np.testing.assert_allclose(depth_difference(depth, other, masks), [0.1, 0.2, np.nan])


def test_the_page_is_one_file_without_scripts(together: list[Compared], tmp_path: Path) -> None:
    named = [replace(one, name=f"<b>{one.name}</b>") for one in together]
    steps: list[int] = []
    write_comparison(named, tmp_path / "page.html", "page.mp4", steps.append)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>a" not in text and "&lt;b&gt;a" in text
    assert "<script" not in text and "http" not in text.split("<body>")[1]
    assert re.findall(r'src="(?!data:)([^"]*)"', text) == ["page.mp4"] and steps == [1, 1]
    assert text.count("<svg") == len(comparison_page(named, "", lambda n: None).camera_charts) + 3


def test_scenes_without_depth_or_motion_have_a_page_too(scene: Scene, other: Scene, tmp_path: Path) -> None:
    still = replace(scene, dynamic=replace(scene.dynamic, masks=np.zeros_like(scene.dynamic.masks)))
    flat = replace(
        other, depth=np.zeros_like(other.depth), dynamic=replace(other.dynamic, masks=other.dynamic.masks & False)
    )
    page = comparison_page(lay_together(["a", "b", "c"], [still, flat, still]), "", lambda steps: None)
    assert page.depth_rows == () and dict(page.table)["masks in common, mean IoU"] == ("-",) + ("nothing moves",) * 2
    assert dict(page.table)["static depth apart, median"] == ("-", "not known", "0 %")
    write_comparison(lay_together(["a", "b"], [flat, flat]), tmp_path / "page.html")


def test_other_clips_are_refused(scene: Scene) -> None:
    strange = replace(scene, names=("other.mp4",) * len(scene))
    with pytest.raises(InputError, match="a and b have 0 frame.* in common"):
        lay_together(["a", "b"], [scene, strange])
    for count in (1, 5):
        with pytest.raises(InputError, match=f"{count} dataset.*give 2 to 4"):
            lay_together(["a"] * count, [scene] * count)


def test_names_tell_the_folders_apart(tmp_path: Path) -> None:
    assert short_names([Path("x/a"), Path("x/b")]) == ["a", "b"]
    assert short_names([Path("x/out"), Path("y/out")]) == ["x/out", "y/out"]
    assert short_names([Path("out"), Path("out")]) == ["out (1)", "out (2)"]


def test_the_command(
    scene: Scene, other: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "VIDEO_SECONDS", 1)
    monkeypatch.setattr(comparison, "VIDEO_FPS", 3)
    for name, one in (("one", scene), ("two", other)):
        write_scene(one, tmp_path / name / "scene")
    page = tmp_path / "new" / "both.html"
    command = ["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(page)]
    main(command)
    assert page.is_file() and page.with_suffix(".mp4").stat().st_size > 2000
    assert str(page) in capsys.readouterr().out
    with pytest.raises(OutputError, match="both.html is there already"):
        Compare((tmp_path / "one", tmp_path / "two"), page).main()
    main([*command, "--no-video", "--overwrite"])
    assert "<video" not in page.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="name of a page"):
        Compare((tmp_path / "one", tmp_path / "two"), tmp_path / "page.pdf").main()


def test_the_video_shows_all_scenes_in_step(together: list[Compared], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "VIDEO_SECONDS", 1)
    monkeypatch.setattr(comparison, "VIDEO_FPS", 2)
    same = [together[0], replace(together[0], name=together[0].name)]
    for frame in comparison_frames(same):
        half = frame.shape[1] // 2
        assert (frame[:, :half] == frame[:, half:]).all() and frame.std() > 10
