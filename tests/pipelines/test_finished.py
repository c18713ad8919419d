"""The same command on a finished run: nothing to do; anything else in its place is refused as before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.pipelines import finished, parts, run
from easi3r_ns.pipelines.choice import WeightsChoice
from easi3r_ns.pipelines.finished import run_record
from easi3r_ns.pipelines.parts import process_parts
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.storage.files import write_png
from easi3r_ns.storage.fingerprint import files_of, fingerprint
from tests.support.helpers import Lines
from tests.support.killed_run import KINDS, Instant, data_of

CONFIG = KINDS["whole"]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "choose_pipeline", lambda config: Instant())
    for module in (run, parts):
        monkeypatch.setattr(module, "choose_weights", lambda *_: WeightsChoice("none"))
    return data_of(tmp_path, "whole")


@pytest.fixture
def out(clip: Path, tmp_path: Path) -> Path:
    assert len(process_parts(clip, tmp_path / "out", CONFIG, overwrite=False, log=Lines())) == 1
    return tmp_path / "out"


def again(data: Path, out: Path, config: RunConfig = CONFIG) -> tuple[int, list[str]]:
    log = Lines()
    return len(process_parts(data, out, config, overwrite=False, log=log)), log.said


def with_options(**changes: object) -> RunConfig:
    return replace(CONFIG, easi3r=replace(CONFIG.easi3r, **changes))


def test_the_same_command_has_nothing_to_do(clip: Path, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    made, said = again(clip, out)
    assert made == 0 and len(said) == 1 and said[0].startswith(f"{out} is finished already")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_command_line_says_so_and_exits_with_0(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--data", str(clip), "--output-dir", str(tmp_path / "x"), "--num-downscales", "0", "--no-report"]
    monkey = [*words, "--weights", "none"]
    cli.main(monkey)
    capsys.readouterr()
    cli.main(monkey)
    assert "is finished already" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main([*monkey, "--seed", "1"])
    assert caught.value.code == 5 and "--overwrite" in capsys.readouterr().err


def test_a_copy_of_the_clip_elsewhere_is_the_same_clip(clip: Path, out: Path, tmp_path: Path) -> None:
    assert again(shutil.copytree(clip, tmp_path / "elsewhere"), out)[0] == 0


@pytest.mark.parametrize("change", ["a pixel", "one image more", "a name", "no clip"])
def test_another_clip_is_refused(clip: Path, out: Path, change: str) -> None:
    image = cv2.imread(str(clip / "1.png"))
    if change == "a pixel":
        image[3, 4] ^= 1
        cv2.imwrite(str(clip / "1.png"), image)
    elif change == "one image more":
        cv2.imwrite(str(clip / "2.png"), image)
    elif change == "a name":
        (clip / "1.png").rename(clip / "3.png")
    else:
        shutil.rmtree(clip)
    with pytest.raises(OutputError, match="already holds a dataset"):
        again(clip, out)


@pytest.mark.parametrize(
    "config",
    [
        with_options(seed=1),
        with_options(masks=Path("masks")),
        replace(CONFIG, dataset=replace(CONFIG.dataset, mask_growth=4)),
    ],
    ids=["seed", "masks", "growth"],
)
def test_other_options_are_refused(clip: Path, out: Path, config: RunConfig) -> None:
    with pytest.raises(OutputError, match="already holds a dataset"):
        again(clip, out, config)


def test_evaluation_on_the_same_clip_is_refused_before_the_work(clip: Path, tmp_path: Path) -> None:
    for same in (clip, shutil.copytree(clip, tmp_path / "copy")):
        with pytest.raises(InputError, match=f"^--eval-data {same} is the clip of --data"):
            again(clip, tmp_path / "other", replace(CONFIG, eval_data=same))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("option", ["masks", "weights"])
def test_files_that_an_option_names_are_known_by_their_content(clip: Path, tmp_path: Path, option: str) -> None:
    folder, out = tmp_path / "given", tmp_path / "with"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.zeros((48, 64), dtype=np.uint8))

    def config(path: Path) -> RunConfig:
        return with_options(**{option: path if option == "masks" else str(path)})

    assert again(clip, out, config(folder))[0] == 1
    assert again(clip, out, config(shutil.copytree(folder, tmp_path / "moved")))[0] == 0
    cv2.imwrite(str(folder / "0.png"), np.ones((48, 64), dtype=np.uint8))
    with pytest.raises(OutputError, match="already holds a dataset"):
        again(clip, out, config(folder))


def test_a_dataset_that_lost_a_file_is_not_called_finished(clip: Path, out: Path) -> None:
    (out / "masks" / "frame_00002.png").unlink()
    with pytest.raises(OutputError, match=r"1 of its files are missing \(masks/frame_00002.png\).*--overwrite"):
        again(clip, out)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"easi3r": 3}', b'{"easi3r": {"run": null}}'])
def test_a_damaged_transforms_json_is_refused(clip: Path, out: Path, content: bytes) -> None:
    (out / "transforms.json").write_bytes(content)
    with pytest.raises(OutputError, match="already holds a dataset"):
        again(clip, out)


def test_of_another_version(clip: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easi3r_ns.pipelines.finished.__version__", "99")
    with pytest.raises(OutputError, match="already holds a dataset"):
        again(clip, out)


def test_what_a_killed_run_left_goes_and_what_is_not_ours_stays(clip: Path, out: Path) -> None:
    (out / ".easi3r" / "stages").mkdir(parents=True)
    ours = [out / f".{name}.12.34.tmp" for name in (".easi3r_files.json", "transforms.json", "sparse_pc.ply")]
    theirs = [out / ".notes.12.34.tmp", out / "notes.txt"]
    for file in (*ours, *theirs):
        file.write_text("x")
    assert again(clip, out)[0] == 0
    assert not (out / ".easi3r").exists() and not any(file.exists() for file in ours)
    assert all(file.exists() for file in theirs)


def test_a_killed_write_of_the_list_of_files_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    out.mkdir()
    (out / ".easi3r_files.json.12.34.tmp").write_text("theirs")
    (out / "..easi3r_files.json.12.34.tmp").write_text("{")
    assert again(clip, out)[0] == 1
    assert [path.name for path in out.glob("*.tmp")] == [".easi3r_files.json.12.34.tmp"]


def test_a_record_holds_no_paths(clip: Path, out: Path) -> None:
    record = json.loads((out / "transforms.json").read_text())["easi3r"]["run"]
    assert str(clip) not in json.dumps(record) and len(record["inputs"]["data"]) == 32


def test_fingerprints(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2"), (".hidden", b"3")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    files = files_of(tmp_path)
    assert [file.name for file in files] == ["a", "b"] and files_of(files[0]) == [files[0]]
    assert fingerprint(files) != fingerprint(files[::-1]) != fingerprint(files[:1])
    (tmp_path / "a2").write_bytes(b"1")
    assert fingerprint([tmp_path / "a2"]) == fingerprint(files[:1]), "the name of a single file does not matter"


def test_masks_of_a_pattern_are_looked_at(tmp_path):
    for k in range(2):
        write_png(tmp_path / f"m_{k}.png", np.zeros((8, 8), np.uint8))
    before = finished._fingerprint_of_masks(tmp_path / "m_%d.png")
    write_png(tmp_path / "m_1.png", np.full((8, 8), 255, np.uint8))
    assert finished._fingerprint_of_masks(tmp_path / "m_%d.png") != before
    assert finished._fingerprint_of_masks(tmp_path / "x_%d.png") == "missing"


@pytest.mark.parametrize("option", [{"masks_missing": "static"}, {"masks_polarity": "white-moves"}])
def test_what_is_said_about_masks_is_recorded_with_them(clip: Path, option: dict[str, str]) -> None:
    config = with_options(masks=clip, **option)
    plain, more = (run_record(clip, each) for each in (with_options(masks=clip), config))
    assert more["options"]["easi3r"] == plain["options"]["easi3r"] | option and more["inputs"] == plain["inputs"]
