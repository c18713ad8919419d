"""Options of nerfstudio's own processors: accepted, translated with a line, or refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from easi3r_ns.cli.fields import options_of
from easi3r_ns.cli.foreign import FOREIGN, translate
from easi3r_ns.cli.main import main
from easi3r_ns.cli.run import ProcessEasi3R
from easi3r_ns.core.errors import InputError
from easi3r_ns.pipelines import run

SILENT = [
    "--gpu",
    "--camera-type perspective",
    "--sfm-tool any",
    "--sfm-tool=colmap",
    "--no-verbose",
    "--no-overwrite",
    "--same-dimensions",
    "--use-single-camera-mode",
    "--refine-intrinsics",
    "--no-skip-colmap",
    "--no-refine-pixsfm",
    "--no-skip-image-processing",
    "--use-sfm-depth",
    "--no-include-depth-debug",
    "--gpu True",
    "--crop-bottom 0.0",
    "--percent-radius-crop 1.0",
]
TRANSLATED = {
    "--no-gpu": "--device cpu",
    "--gpu False": "--device cpu",
    "--gpu=false": "--device cpu",
    "--random-seed 3": "--seed 3",
    "--random_seed=3": "--seed 3",
    "--camera-type pinhole": "--camera-model pinhole",
    "--camera-type simple_pinhole": "--camera-model pinhole",
    "--camera-type fisheye": "--camera-model opencv-fisheye",
    "--camera-type equirectangular": "--projection equirect",
    "--images-per-equirect 8": "--equirect-views 8",
    "--max-num-frames 7": "--num-frames-target 7",
    "--max-dataset-size -1": "--num-frames-target 0",
    "--skip-colmap": "--refine none",
    "--crop-bottom 0.2": "--crop-factor 0 0.2 0 0",
    "--skip-image-processing": "--num-downscales 0",
    "--no-use-sfm-depth": "--no-depths",
    "--no-use-single-camera-mode": "--align.no-shared-focal",
}
LEFT_OUT = [
    "--eval-random-seed 4",
    "--sfm-tool hloc",
    "--feature-type superpoint_aachen",
    "--matcher-type NN",
    "--matching-method exhaustive",
    "--matching-method=sequential",
    "--matching-method vocab_tree",
    "--refine-pixsfm",
    "--no-refine-intrinsics",
    "--colmap-cmd colmap",
    "--colmap-model-path colmap/sparse/0",
    "--include-depth-debug",
    "--no-same-dimensions",
]
REFUSED = {
    "--camera-type round": "perspective",
    "--crop-bottom much": "give a number",
    "--percent-radius-crop 0.9": "--masks",
    "--random-seed": "give 1 value",
}


@pytest.mark.parametrize("words", SILENT)
def test_what_is_done_anyway_is_accepted_without_a_word(words: str) -> None:
    assert translate(["--data", "x", *words.split(), "--overwrite"]) == (["--data", "x", "--overwrite"], [])


@pytest.mark.parametrize("words", TRANSLATED)
def test_translated_with_a_line(words: str) -> None:
    ours, (line,) = translate(["--data", "x", *words.split(), "--overwrite"])
    assert ours == ["--data", "x", *TRANSLATED[words].split(), "--overwrite"]
    assert line.startswith(words.split("=")[0].split()[0]) and TRANSLATED[words].split()[0] in line


SHORT = {"--equirect": "--projection equirect", "--no-equirect": "--projection perspective"}
"""Of our own options."""


@pytest.mark.parametrize("words", SHORT)
def test_short_forms_need_no_line(words: str) -> None:
    assert translate([words, "--overwrite"]) == ([*SHORT[words].split(), "--overwrite"], [])


@pytest.mark.parametrize("words", LEFT_OUT)
def test_left_out_with_a_line(words: str) -> None:
    ours, (line,) = translate([*words.split(), "--overwrite"])
    assert ours == ["--overwrite"] and line.startswith(words.replace("=", " ")) and "left out" in line


@pytest.mark.parametrize("words", REFUSED)
def test_refused_with_what_to_do(words: str) -> None:
    with pytest.raises(InputError, match=REFUSED[words]) as caught:
        translate([*words.split()])
    assert str(caught.value).startswith(words.split()[0])


def test_every_foreign_option_is_tried_here() -> None:
    tried = " ".join([*SILENT, *TRANSLATED, *SHORT, *LEFT_OUT, *REFUSED]).replace("_", "-")
    assert [name for name in FOREIGN if f"-{name}" not in tried] == []


def test_no_foreign_option_is_ours_too() -> None:
    own, groups = options_of(ProcessEasi3R)
    rows = own + [row for group in groups for row in options_of(group.cls, group.prefix, group.one_flag)[0]]
    ours = {flag for row in rows for flag in row.flags}
    assert {f"--{no}{name}" for name in FOREIGN for no in ("", "no-")} & ours == set()


def test_our_options_pass_through_as_they_are() -> None:
    words = ["--data", "a b.mp4", "--masks", "m", "--no-masks", "--align.flow-weight=0", "--verbose", "-h"]
    assert translate(words) == (words, [])


@pytest.mark.parametrize("through", ["easi3r", "nerfstudio"])
def test_the_command_line_of_a_video_is_understood(through, monkeypatch, capsys) -> None:
    """What people type for `ns-process-data video`, with another name of the processor."""
    seen = []
    monkeypatch.setattr(run, "process", lambda *args, **options: seen.append(args) or 1 / 0)
    words = "--data clip.mp4 --output-dir out --num-frames-target 9 --matching-method sequential --no-gpu"
    with pytest.raises(SystemExit):
        if through == "easi3r":
            main(["run", *words.split()])
        else:
            ProcessEasi3R.command_line(words.split(), "ns-process-data easi3r")
    ((data, output, config),) = seen
    assert (data, output) == (Path("clip.mp4"), Path("out"))
    assert config.easi3r.device == "cpu" and config.frames.num_frames_target == 9
    error = capsys.readouterr().err
    assert "note: --matching-method sequential is left out" in error and "note: --no-gpu is --device cpu" in error
