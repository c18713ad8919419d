"""Several values after ``--data``."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from easi3r_ns.cli.plan import Plan
from easi3r_ns.cli.run import ProcessEasi3R
from easi3r_ns.cli.several import data_first, joined
from easi3r_ns.core.errors import InputError
from easi3r_ns.frames import open_source
from tests.frames.test_sources import folder_of


def test_one_value_stays_as_it_is() -> None:
    for words in (
        ["--data", "a.mp4", "--fps", "3"],
        ["--data=-a.mp4", "--fps", "3"],
        ["--output-dir", "x", "y"],
        ["--data"],
    ):
        assert joined(words) == words


def test_images_of_a_pattern_without_quotes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "shots [1]", ["a_1.png", "a_2.png", "a_10.png", "b_1.png"])
    listed = [str(folder / f"a_{k}.png") for k in (1, 10, 2)]
    words = joined(["--fps", "3", "--data", *listed, "--output-dir", "out"])
    assert words[:3] == ["--fps", "3", "--data"] and words[4:] == ["--output-dir", "out"]
    source = open_source(Path(words[3]))
    assert [source.name(k) for k in range(3)] == ["a_1.png", "a_2.png", "a_10.png"]


def test_images_that_no_pattern_names_and_clips(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", ["a_1.png", "a_2.png", "a_3.png"])
    with pytest.raises(InputError, match=r"2 images.*in quotes"):
        joined(["--data", str(folder / "a_1.png"), str(folder / "a_3.png")])
    with pytest.raises(InputError, match=r"some are images, some are not"):
        joined(["--data", str(folder / "a_1.png"), "b.mp4"])
    with pytest.raises(InputError, match=r"2 sources"):
        joined(["--eval-data", "a.mp4", "b.mp4"])


def test_several_clips_are_one_scene() -> None:
    words = joined(["--data", "a.mp4", "b.mp4", "photos", "--output-dir", "out"])
    assert words == ["--data", "a.mp4", "--more-data", "b.mp4", "photos", "--output-dir", "out"]
    command = tyro.cli(ProcessEasi3R, args=words)
    assert command.data == Path("a.mp4") and command.more_data == (Path("b.mp4"), Path("photos"))


def test_plan_takes_the_words_of_run() -> None:
    assert data_first(["a.mp4", "--fps", "3"]) == ["a.mp4", "--fps", "3"]
    words = data_first(["--weights", "none", "--data", "a.mp4", "b.mp4", "--fps", "3"])
    assert words == ["a.mp4", "b.mp4", "--weights", "none", "--fps", "3"]
    assert tyro.cli(Plan, args=data_first(["--weights", "none", "--data=a.mp4"])).data == Path("a.mp4")
