"""Clips of a batch get names that stay, and options that belong to one clip are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from easi3r_ns.batch.jobs import make_jobs, priorities
from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.pipelines.pipeline import RunConfig


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(clips: list[Path], tmp_path: Path, **options: object) -> list[str]:
    return [job.name for job in make_jobs(clips, tmp_path / "out", RunConfig(), **options)]


def test_a_clip_is_called_as_its_file_with_its_folder_where_that_is_taken(tmp_path: Path) -> None:
    clips = [touch(tmp_path / name) for name in ("a/cat.mp4", "b/cat.mp4", "b/CAT.mov", "b/.hidden.mp4")]
    assert names(clips, tmp_path)[:2] == ["cat", "b-cat"]
    assert len({name.casefold() for name in names(clips, tmp_path)}) == 4
    assert names(clips[-1:], tmp_path) == ["hidden"]


def test_a_name_stays_when_other_clips_come_before_it(tmp_path: Path) -> None:
    first, second = (touch(tmp_path / name) for name in ("a/cat.mp4", "b/cat.mp4"))
    assert names([second, first], tmp_path, known={str(first): "cat"}) == ["b-cat", "cat"]


def test_a_folder_stands_for_its_videos_and_a_folder_of_images_for_itself(tmp_path: Path) -> None:
    for name in ("v/2.mp4", "v/10.mp4", "v/notes.txt", "i/1.png", "i/2.png"):
        touch(tmp_path / name)
    assert names([tmp_path / "v", tmp_path / "i"], tmp_path) == ["2", "10", "i"]


def test_options_come_back_as_they_were_given(tmp_path: Path) -> None:
    config = RunConfig(FrameConfig(7, crop_factor=(0.1, 0, 0, 0)), Easi3RConfig(weights="none", max_memory=3))
    (job,) = make_jobs([touch(tmp_path / "a.mp4")], tmp_path / "out", config)
    assert job.config == config and job.dataset == tmp_path / "out" / "a"


def test_weights_in_a_file_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)
    (job,) = make_jobs([touch(tmp_path / "a.mp4")], Path("out"), RunConfig(easi3r=Easi3RConfig(weights="mine.pth")))
    assert job.config.easi3r.weights == str(tmp_path / "mine.pth") and job.output_dir == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (RunConfig(easi3r=Easi3RConfig(masks=Path("m"))), "--masks belongs to one clip"),
        (RunConfig(easi3r=Easi3RConfig(corrections=Path("c"))), "--corrections belongs to one clip"),
        (RunConfig(dataset=DatasetConfig(metric_reference="0 10 10 20 20 1.0")), "--metric-reference belongs"),
    ],
)
def test_options_of_one_clip_are_refused(config: RunConfig, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        make_jobs([touch(tmp_path / "a.mp4")], tmp_path / "out", config)


def test_a_missing_clip_and_one_that_is_given_twice_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.mp4 does not exist"):
        names([tmp_path / "gone.mp4"], tmp_path)
    clip = touch(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="a.mp4 is given twice"):
        names([clip, tmp_path], tmp_path)


def test_patterns_say_what_comes_first(tmp_path: Path) -> None:
    jobs = make_jobs([touch(tmp_path / f"{name}.mp4") for name in "abc"], tmp_path / "out", RunConfig())
    assert priorities(jobs, ["c", "b.*"]) == {"a": 2, "b": 1, "c": 0}
    with pytest.raises(InputError, match="--first z"):
        priorities(jobs, ["z"])
