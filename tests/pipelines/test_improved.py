"""`easi3r improve`: what is kept, what changes, and that both are said."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.improve import ImproveConfig, change_lines
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.similarity import align_cameras
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.pipelines import imported
from easi3r_ns.pipelines.theirs import as_first_look, as_theirs_again, change_facts
from easi3r_ns.report.command import command_text
from easi3r_ns.report.sections.run import run_section
from easi3r_ns.training.scenes import Clip
from tests.support.clip_scene import perfect_scene, sharp_clip
from tests.support.colmap_folder import write_colmap_folder

FRAMES, HEIGHT, WIDTH = 5, 96, 128
QUICK = ("--num-downscales", "0", "--no-report")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return sharp_clip(3, FRAMES, HEIGHT, WIDTH)


def write_megasam(clip: Clip, folder: Path, masks: np.ndarray) -> Path:
    """The archive of MegaSaM with these masks as probabilities."""
    (folder / "outputs_cvd").mkdir(parents=True)
    (folder / "reconstructions" / "dog").mkdir(parents=True)
    np.save(folder / "reconstructions" / "dog" / "motion_prob.npy", masks.astype(np.float32))
    focal, (cx, cy) = clip.focal, clip.principal_point
    np.savez(
        folder / "outputs_cvd" / "dog_sgd_cvd_hr.npz",
        images=clip.images,
        depths=clip.depth,
        intrinsic=np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]]),
        cam_c2w=clip.T_world_cam,
    )
    return folder


def improve(folder: Path, out: Path, *words: str) -> Scene:
    cli.main(["improve", str(folder), "--output-dir", str(out), *QUICK, *words])
    return find_scene(out)


def assert_same_cameras(scene: Scene, clip: Clip) -> None:
    over = align_cameras(scene.T_world_cam, clip.T_world_cam)
    centres = over.scale * scene.T_world_cam[:, :3, 3] @ over.R.T + over.t
    np.testing.assert_allclose(centres, clip.T_world_cam[:, :3, 3], atol=1e-6)


def agreement(scene: Scene, clip: Clip) -> float:
    return float((scene.dynamic.masks & clip.moving).sum() / (scene.dynamic.masks | clip.moving).sum())


def test_their_masks_are_corrected_and_their_cameras_stay(clip, tmp_path, capsys):
    """A third of the frames without masks, and a false one in all: the second look mends both."""
    spoiled = clip.moving.copy()
    spoiled[1::3] = False
    spoiled[:, :24, :24] = True
    folder = write_megasam(clip, tmp_path / "theirs", spoiled)
    scene = improve(folder, tmp_path / "out")
    said = " ".join("".join(capsys.readouterr()).split())
    before = float((spoiled & clip.moving).sum() / (spoiled | clip.moving).sum())
    assert agreement(scene, clip) > before + 0.03, (agreement(scene, clip), before)
    assert_same_cameras(scene, clip)
    facts = scene.provenance["improved"]
    assert facts["cameras"] == {"kept": True, "why": None} and facts["masks"]["given"] == pytest.approx(spoiled.mean())
    assert facts["masks"]["added"] > 0.002 and facts["masks"]["taken"] > 0.005
    assert "cameras kept as they were given" in said and "masks changed from" in said and "theirs kept (" in said
    assert scene.provenance["motion"]["first"] == "user"
    text = command_text(scene.provenance)
    assert text.startswith(f"easi3r improve {folder} --output-dir OUT")
    assert [fact.name for fact in run_section(scene.provenance).improved] == ["cameras", "masks", "depth"]
    cli.main(["improve", str(folder), "--output-dir", str(tmp_path / "out"), *QUICK])
    assert "is finished already" in " ".join("".join(capsys.readouterr()).split())
    np.save(folder / "reconstructions" / "dog" / "motion_prob.npy", clip.moving.astype(np.float32))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["improve", str(folder), "--output-dir", str(tmp_path / "out"), *QUICK])
    assert stopped.value.code == 5, "what was made of other files is not taken for this"
    kept = improve(folder, tmp_path / "kept", "--keep-masks")
    np.testing.assert_array_equal(kept.dynamic.masks, clip.moving)
    assert "masks kept" in " ".join(" ".join(pair) for pair in change_lines(kept.provenance["improved"]))
    assert "--keep-masks" in shlex.split(command_text(kept.provenance)) and kept.dynamic.source == "user"


@pytest.mark.slow
def test_cameras_change_where_that_is_asked_for(tmp_path):
    clip = sharp_clip(3, 8, 192, 256)
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    images = folder / "sparse" / "0" / "images.txt"
    lines, rng = images.read_text().splitlines(), np.random.default_rng(0)
    for row in range(1, len(lines), 2):
        words = lines[row].split()
        if len(words) == 10:
            words[5:8] = [str(float(word) + 0.02 * rng.standard_normal()) for word in words[5:8]]
            lines[row] = " ".join(words)
    images.write_text("\n".join(lines) + "\n")
    errors = []
    for refine in ("none", "colmap"):
        scene = improve(folder, tmp_path / refine, "--refine", refine, "--depth", "none", "--no-masks")
        over = align_cameras(scene.T_world_cam, clip.T_world_cam)
        centres = over.scale * scene.T_world_cam[:, :3, 3] @ over.R.T + over.t
        errors.append(float(np.linalg.norm(centres - clip.T_world_cam[:, :3, 3], axis=1).mean()))
        facts = scene.provenance["improved"]["cameras"]
        assert facts["kept"] is (refine == "none")
    assert errors[1] < 0.3 * errors[0], errors
    assert facts["moved_most"] > 0.001
    assert "--refine colmap" in command_text(scene.provenance)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(clip, tmp_path, monkeypatch):
    folder, calls = write_colmap_folder(clip, tmp_path / "theirs"), []
    real = imported.geometric_masks
    monkeypatch.setattr(imported, "geometric_masks", lambda *a, **k: calls.append(1) or real(*a, **k))

    def killed(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(imported, "look_again", killed)
        improve(folder, tmp_path / "out", "--depth", "none")
    scene = improve(folder, tmp_path / "out", "--depth", "none")
    assert calls == [1] and len(scene) == FRAMES
    assert not (tmp_path / "out" / ".easi3r").exists()


def test_what_cannot_be_improved_is_one_line(clip, tmp_path, capsys):
    folder = write_colmap_folder(clip, tmp_path / "theirs")
    empty = tmp_path / "empty"
    empty.mkdir()
    for given, out, told in (
        (empty, tmp_path / "out", "is no known layout"),
        (tmp_path / "none", tmp_path / "out", "does not exist"),
        (folder, folder / "out", "which is read: choose a folder outside of it"),
        (folder, folder, "which is read"),
    ):
        with pytest.raises(SystemExit) as stopped:
            improve(given, out)
        text = " ".join(capsys.readouterr().err.split())
        assert stopped.value.code == InputError.exit_code and told in text and "Traceback" not in text
    assert not (tmp_path / "out").exists() and not (folder / "out").exists()


def test_masks_that_no_second_look_replaces_keep_their_name(clip, tmp_path):
    given = perfect_scene(clip, tmp_path / "clip")
    theirs = replace(given.dynamic, source="user")
    assert as_first_look(theirs, None).source == as_first_look(theirs, ImproveConfig(keep_masks=True)).source == "user"
    scene = replace(given, dynamic=as_first_look(theirs, ImproveConfig()))
    assert as_theirs_again(scene).dynamic.source == "user"
    facts = change_facts(given, given, {"masks": True, "depth": True})
    assert facts["masks"]["agreement"] == 1 and facts["cameras"]["kept"]
