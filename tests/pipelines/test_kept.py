"""What a finished run keeps, and `easi3r redo`: the same options come back, and little is computed again."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from easi3r_ns.cli import redo as redo_command
from easi3r_ns.cli.main import main
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, plan_preprocessing
from easi3r_ns.pipelines import network as network_pipeline
from easi3r_ns.pipelines.finished import is_finished
from easi3r_ns.pipelines.kept import _EVERY, GROUPS, KEPT, changes, keep_run, kept_run, made_again, size_of
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import WORKSPACE, process
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import read_png
from easi3r_ns.storage.lock import only_writer
from easi3r_ns.training.scenes import render_clip
from tests.pipelines.test_network import SMALL, write_images
from tests.support.standin import StandIn

OPTIONS = RunConfig(
    FrameConfig(num_frames_target=7, fps=None, end=3.5, crop_factor=(0.1, 0.0, 0.0, 0.2)),
    Easi3RConfig(weights="tiny", masks=Path("own"), focal_length=500.0, no_masks=False, seed=3),
    AlignConfig(solver="adam", max_pixels=300),
    DatasetConfig(mask_growth=5, report=False),
    RefineConfig("none", camera_model="opencv"),
    eval_data=Path("second.mp4"),
    more_data=(Path("b.mp4"), Path("c.mp4")),
    keep_stages=True,
)


def test_source_and_options_come_back_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / WORKSPACE).mkdir()
    (tmp_path / "weights").mkdir()
    for weights, kept in (("tiny", "tiny"), ("weights", str(tmp_path / "weights"))):
        config = replace(OPTIONS, easi3r=replace(OPTIONS.easi3r, weights=weights))
        keep_run(tmp_path / WORKSPACE, Path("shots/*.jpg"), config)
        back = kept_run(tmp_path / WORKSPACE)
        assert back.data == tmp_path / "shots/*.jpg"
        moved = replace(config.easi3r, masks=tmp_path / "own", weights=kept)
        more = (tmp_path / "b.mp4", tmp_path / "c.mp4")
        assert back.config == replace(config, easi3r=moved, eval_data=tmp_path / "second.mp4", more_data=more)


def test_names_of_models_stay_whatever_lies_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "none", "auto", "dust3r", "depth-pro", "own"):
        (tmp_path / name).mkdir()
    for weights, prior in (("dust3r", "depth-pro"), ("auto", "own"), ("none", "depth-pro")):
        keep_run(tmp_path, Path("clip.mp4"), RunConfig(easi3r=Easi3RConfig(weights=weights, depth_prior=prior)))
        back = kept_run(tmp_path).config.easi3r
        assert (back.weights, back.depth_prior) == (weights, str(tmp_path / "own") if prior == "own" else prior)


def test_an_option_takes_the_place_of_its_alternative() -> None:
    was = RunConfig(easi3r=Easi3RConfig(no_masks=True), dataset=DatasetConfig(camera_height=1.5))
    new = redo_command._without_alternatives(was, ["out", "--masks", "own", "--metric-reference=1 2 3 4 5 6"])
    assert not new.easi3r.no_masks and new.dataset.camera_height is None
    assert redo_command._without_alternatives(was, ["out", "--no-masks", "--seed", "3"]) == was


def test_a_kept_stage_warns_again(tmp_path: Path) -> None:
    def compute(log: RunLog) -> dict[str, torch.Tensor]:
        log.warn("little parallax")
        return {"x": torch.ones(2)}

    for folder, times in ((tmp_path, 1), (tmp_path, 0), (None, 1)):
        log, calls = RunLog(), []
        cache = StageCache(folder)
        for _ in range(2 if folder else 1):
            got = cache.stage("part", "key", lambda: calls.append(1) or compute(log), log)
            assert list(got) == ["x"] and log.warnings == ["little parallax"]
        assert len(calls) == times


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: "[", "damaged"),
        (lambda facts: facts | {"version": "9"}, "is of version 9"),
        (lambda facts: facts | {"options": facts["options"] | {"easi3r": {"seed": "x"}}}, "damaged"),
        (lambda facts: facts | {"options": facts["options"] | {"align": {"iterations": -1}}}, "--align.iterations"),
        (lambda facts: facts | {"data": 3}, "damaged"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_line(tmp_path: Path, change, said: str) -> None:
    keep_run(tmp_path, Path("clip.mp4"), RunConfig())
    text = change(json.loads((tmp_path / KEPT).read_text()))
    (tmp_path / KEPT).write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(InputError, match=said):
        kept_run(tmp_path)


def test_every_option_decides_a_step() -> None:
    known = {name for names in GROUPS.values() for name in names} | set(_EVERY)
    assert {f.name for f in fields(Easi3RConfig)} | {"frames", "align", "refine", "dataset"} == known


def test_what_a_change_makes_again() -> None:
    def steps(**parts: object) -> list[str]:
        return made_again(OPTIONS, replace(OPTIONS, **parts))

    assert steps(dataset=DatasetConfig(mask_growth=6)) == ["dataset"]
    assert steps(easi3r=replace(OPTIONS.easi3r, depth="none")) == ["depth", "second look", "dataset"]
    assert steps(refine=RefineConfig("colmap"), dataset=DatasetConfig())[0] == "cameras"
    assert steps(easi3r=replace(OPTIONS.easi3r, no_masks=True, masks=None))[0] == "what moves"
    assert steps(frames=FrameConfig()) == steps(eval_data=None) == list(GROUPS)
    assert steps(easi3r=replace(OPTIONS.easi3r, batch_size=4)) == ["dataset"]
    assert steps(dataset=replace(OPTIONS.dataset, image_format="jpeg")) == list(GROUPS)
    changed = replace(OPTIONS, dataset=replace(OPTIONS.dataset, mask_growth=6, report=True), align=AlignConfig())
    assert changes(OPTIONS, changed) == [
        *("--align.solver newton", "--align.max-pixels None", "--mask-growth 6", "--report"),
    ]


def test_images_that_the_dataset_shares_take_no_room(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "own.npy").write_bytes(b"x" * 1000)
    (tmp_path / "work" / "shared.png").write_bytes(b"x" * 500)
    os.link(tmp_path / "work" / "shared.png", tmp_path / "image.png")
    assert size_of(tmp_path / "work") == 1000


def test_a_dataset_is_made_again_without_network_and_alignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = render_clip(5, 4, 120, 160)
    network = replace(SMALL, image_size=64)
    data, out = write_images(clip, tmp_path / "clip"), tmp_path / "out"
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square)
    options = DatasetConfig(num_downscales=0, report=False, mask_growth=0)
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights="tiny", device="cpu", motion="attention"),
        AlignConfig(iterations=5),
        options,
        RefineConfig("none"),
        keep_stages=True,
    )

    def make(config: RunConfig, *, overwrite: bool) -> StandIn:
        stand_in = StandIn(clip, plan_preprocessing((160, 120), geometry), network)
        pipeline = NetworkPipeline(config, stand_in)
        process(data, out, config, overwrite=overwrite, log=RunLog(), pipeline=pipeline)
        return stand_in

    assert make(config, overwrite=False).encoded == 4
    assert is_finished(data, out, config, out / WORKSPACE, RunLog()) and (out / WORKSPACE / KEPT).is_file()
    cameras = json.loads((out / "transforms.json").read_text())["frames"]
    static = read_png(out / "masks" / "frame_00002.png") > 0

    def no_alignment(*args: object, **options: object) -> None:
        raise AssertionError("aligned again")

    monkeypatch.setattr(network_pipeline, "align", no_alignment)
    ran = []

    def run_again(source: Path, folder: Path, config: RunConfig, *, overwrite: bool, verbose: bool) -> None:
        assert (source, folder, overwrite) == (data, out, True)
        ran.append(make(config, overwrite=True))

    monkeypatch.setattr("easi3r_ns.cli.run.run_and_print", run_again)
    main(["redo", str(out), "--mask-growth", "6"])
    assert ran[0].encoded == 0 and "made again: dataset" in capsys.readouterr().out
    assert json.loads((out / "transforms.json").read_text())["frames"] == cameras
    grown = read_png(out / "masks" / "frame_00002.png") > 0
    assert (grown <= static).all() and 0 < grown.sum() < static.sum()

    with pytest.raises(SystemExit) as stopped:
        main(["redo", str(out), "--mask-growth", "6"])
    assert stopped.value.code == InputError.exit_code
    with only_writer(out), pytest.raises(SystemExit):
        main(["redo", str(out), "--clean"])
    main(["redo", str(out), "--clean"])
    assert not (out / WORKSPACE).exists() and len(ran) == 1


def test_where_nothing_was_kept_the_remedy_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "part_01" / WORKSPACE).mkdir(parents=True)
    with pytest.raises(InputError, match="keeps no intermediate results.*--overwrite"):
        redo_command.Redo.command_line([str(tmp_path)], "easi3r redo")
    keep_run(tmp_path / "part_01" / WORKSPACE, Path("clip.mp4"), RunConfig())
    with pytest.raises(InputError, match="one of them, such as .*part_01"):
        redo_command.Redo.command_line([str(tmp_path)], "easi3r redo")
    with pytest.raises(InputError, match="comes first"):
        redo_command.Redo.command_line(["--mask-growth", "6"], "easi3r redo")
    with pytest.raises(SystemExit):
        main(["redo", str(tmp_path / "part_01"), "--mask-growth", "many"])
    assert "mask-growth" in capsys.readouterr().err
    assert np.isclose(size_of(tmp_path), len((tmp_path / "part_01" / WORKSPACE / KEPT).read_bytes()))
