"""Names of files on the command line that look like something else."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.cli.display import RichRunLog
from easi3r_ns.cli.options import dashed_names
from easi3r_ns.storage.video import write_video


@pytest.mark.parametrize("name", ["-a.mp4", "--data.mp4", "-1.mp4"])
@pytest.mark.parametrize("command", [["plan"], ["run", "--output-dir", "out", "--data"]])
def test_a_name_that_begins_with_a_dash_is_a_file_where_there_is_one(tmp_path, monkeypatch, capsys, name, command):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    with pytest.raises(SystemExit) as request:
        cli.main([*command, name])
    assert request.value.code == 2
    assert f"{name} is empty (0 bytes)" in " ".join(capsys.readouterr().err.split())


def test_a_name_is_printed_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "0:v:1 [b]:smile:.mp4"
    Path(name).write_bytes(b"no video at all")
    with pytest.raises(SystemExit):
        cli.main(["plan", name, "--weights", "tiny"])
    assert name in " ".join(capsys.readouterr().err.split())
    log = RichRunLog()
    log.info(name)
    log.warn(name)
    assert capsys.readouterr().err.count(name) == 2


def test_options_stay_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("--data", "-h", "a.mp4"):
        Path(name).touch()
    arguments = ["run", "--data", "a.mp4", "-h", "-b.mp4", "-0.5", "", "--fps", "-\0"]
    assert dashed_names(arguments) == arguments


@pytest.mark.skipif(os.name == "nt", reason="Windows has no files of these names")
def test_a_video_is_written_into_a_folder_whose_name_looks_like_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("10:30").mkdir()
    write_video(Path("10:30/preview.mp4"), [np.zeros((32, 32, 3), np.uint8)] * 2, Fraction(10))
    with av.open("file:10:30/preview.mp4") as container:
        assert len(list(container.decode(video=0))) == 2
