"""Runs with corrections by hand: they win in both pipelines, over both looks, and decide what is computed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.frames import ImageGeometry, plan_preprocessing
from easi3r_ns.motion.cut import over_cut
from easi3r_ns.pipelines import geometric as pipeline_geometric
from easi3r_ns.pipelines.again import solve_again
from easi3r_ns.pipelines.finished import run_record
from easi3r_ns.pipelines.kept import changes, made_again
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.parts import process_parts
from easi3r_ns.pipelines.run import RunConfig, process
from easi3r_ns.storage.corrections import (
    AS_FOUND,
    FOLDER,
    MOVES,
    STILL,
    Corrections,
    frame_sources,
    write_corrections,
)
from easi3r_ns.storage.files import read_png
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_geometric import NONE, NUM_FRAMES, clip, mapped, quick_masks, run, write_clip
from tests.pipelines.test_network import SMALL, write_images
from tests.support.standin import StandIn

__all__ = ["clip", "mapped"]
WIDTH, HEIGHT = 160, 120


def marks() -> np.ndarray:
    """What :func:`tests.pipelines.test_geometric.quick_masks` finds stands still; the upper right corner moves."""
    image = np.full((HEIGHT, WIDTH), AS_FOUND, dtype=np.uint8)
    image[-40:, :40], image[:30, -40:] = STILL, MOVES
    return image


def test_the_first_look_with_corrections_finds_the_cameras(tmp_path: Path, clip: Clip, mapped: Callable) -> None:
    calls = mapped()
    data = write_clip(clip, tmp_path / "clip")
    write_corrections(tmp_path / "own", Corrections((WIDTH, HEIGHT), {"frame_00003": marks()}))
    out = run(tmp_path, data, RunLog(), corrections=tmp_path / "own")
    (dynamic,) = calls
    scale = dynamic.masks.shape[2] / WIDTH
    corner = np.s_[: int(25 * scale), -int(35 * scale) :]
    assert dynamic.masks[2][corner].all() and not dynamic.masks[2, -32:, :32].any()
    for row in {*range(NUM_FRAMES)} - {2}:
        assert not dynamic.masks[row][corner].any() and dynamic.masks[row, -32:, :32].all()
    static = read_png(out / "masks" / "frame_00003.png")[..., 0] > 0
    assert not static[:25, -35:].any() and static[-30:, :30].all()
    assert (read_scene(out / "scene").dynamic.objects[2] > 0).any()


@pytest.mark.slow
def test_the_cut_is_moved_without_flow(tmp_path: Path, clip: Clip, mapped: Callable, monkeypatch) -> None:
    calls, looks = mapped(), []

    def found(images: np.ndarray, patch: int, *args: object, **options: object) -> DynamicMasks:
        looks.append(len(images))
        masks = quick_masks(images, patch, *args, **options)
        score = np.tile(np.linspace(0, 2, images.shape[2]), (*images.shape[:2], 1))
        return replace(masks, masks=score > 1, over_cut=over_cut(score, 1.0))

    monkeypatch.setattr(pipeline_geometric, "geometric_masks", found)
    data, out = write_clip(clip, tmp_path / "clip"), tmp_path / "out"
    for threshold in (1.0, 0.5, 1.5):
        options = replace(NONE, mask_threshold=threshold)
        config = RunConfig(
            FrameConfig(0), options, dataset=DatasetConfig(num_downscales=0, report=False), keep_stages=True
        )
        process(data, out, config, overwrite=True, log=RunLog())
    assert looks == [NUM_FRAMES]
    assert [round(float(dynamic.masks.mean()), 1) for dynamic in calls] == pytest.approx([0.5, 0.75, 0.25], abs=0.06)


def test_masks_that_are_given_are_corrected_too(tmp_path: Path, clip: Clip, mapped: Callable) -> None:
    calls = mapped()
    data = write_clip(clip, tmp_path / "clip")
    write_corrections(tmp_path / "own", Corrections((WIDTH, HEIGHT), {"frame_00001": marks()}))
    run(tmp_path, data, RunLog(), corrections=tmp_path / "own", no_masks=True)
    (dynamic,) = calls
    assert dynamic.source == "user" and dynamic.masks.any(axis=(1, 2)).tolist() == [True] + [False] * 5


def test_excluded_frames_are_left_out_of_the_dataset(tmp_path: Path, clip: Clip, mapped: Callable) -> None:
    mapped()
    data = write_clip(clip, tmp_path / "clip")
    own = Corrections((WIDTH, HEIGHT), {"frame_00004": marks()}, excluded=("frame_00001", "frame_00003"))
    write_corrections(tmp_path / "own", own)
    log = RunLog()
    out = run(tmp_path, data, log, corrections=tmp_path / "own")
    assert [index for _, index, _ in frame_sources(out).values()] == [1, 3, 4, 5]
    assert not (read_png(out / "masks" / "frame_00002.png")[:25, -35:] > 0).any()


def test_the_record_of_a_run_knows_what_was_corrected(tmp_path: Path, clip: Clip) -> None:
    data, folder = write_clip(clip, tmp_path / "clip"), tmp_path / "own"
    own = Corrections((WIDTH, HEIGHT), {"frame_00003": marks()})
    config = RunConfig(easi3r=replace(NONE, corrections=folder))
    write_corrections(folder, own)
    record = run_record(data, config)
    write_corrections(folder, replace(own, strokes=["more"], keyframes=("frame_00002",)))
    assert run_record(data, config) == record
    write_corrections(folder, replace(own, excluded=("frame_00002",)))
    assert run_record(data, config) != record != run_record(data, RunConfig(easi3r=NONE))
    steps = made_again(RunConfig(easi3r=NONE), config)
    assert steps == ["masks", "cameras", "depth", "second look", "dataset"]
    assert changes(RunConfig(easi3r=NONE), config) == [f"--corrections {folder}"]


def test_corrections_of_one_clip_are_refused_for_several(tmp_path: Path, clip: Clip) -> None:
    write_corrections(tmp_path / "own", Corrections((WIDTH, HEIGHT), {"frame_00003": marks()}))
    paths = [write_clip(clip, tmp_path / name) for name in ("a", "b")]
    config = RunConfig(easi3r=replace(NONE, corrections=tmp_path / "own"), more_data=(paths[1],))
    with pytest.raises(InputError, match="--corrections .* belong to one clip"):
        process_parts(paths[0], tmp_path / "out", config, overwrite=False, log=RunLog())
    config = RunConfig(easi3r=replace(NONE, corrections=tmp_path / "nothing"))
    with pytest.raises(InputError, match="--corrections .*nothing: give a folder"):
        process(paths[0], tmp_path / "out", config, overwrite=False, log=RunLog())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_network_decodes_with_them_and_its_second_pass_keeps_them(tmp_path: Path) -> None:
    clip, network = render_clip(5, 4, HEIGHT, WIDTH), replace(SMALL, image_size=64)
    data = write_images(clip, tmp_path / "clip")
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square)
    write_corrections(tmp_path / "own", Corrections((WIDTH, HEIGHT), {"frame_00002": marks()}))
    found: list[DynamicMasks] = []
    ran: list[StandIn] = []
    for corrections in (None, tmp_path / "own", None):
        config = RunConfig(
            FrameConfig(num_frames_target=0),
            Easi3RConfig(weights="tiny", device="cpu", motion="attention", corrections=corrections),
            AlignConfig(iterations=5),
            DatasetConfig(num_downscales=0, report=False, mask_growth=0),
            RefineConfig("none"),
            keep_stages=True,
        )
        ran.append(StandIn(clip, plan_preprocessing((WIDTH, HEIGHT), geometry), network))
        pipeline = NetworkPipeline(config, ran[-1])
        process(data, tmp_path / "out", config, overwrite=True, log=RunLog(), pipeline=pipeline)
        found.append(read_scene(tmp_path / "out" / "scene").dynamic)
    before, after, again = found
    height, width = after.masks.shape[1:]
    corner = np.s_[: height // 6, -width // 6 :]
    assert after.masks[1][corner].all() and not after.masks[1, -height // 4 :, : width // 5].any()
    np.testing.assert_array_equal(again.masks, before.masks)
    assert [run.encoded for run in ran] == [4, 0, 0]
    options = json.loads((tmp_path / "out" / "transforms.json").read_text())["easi3r"]["config"]["easi3r"]
    assert options["corrections"] is None

    def lower(share: float) -> DynamicMasks:
        options = replace(config, easi3r=replace(config.easi3r, mask_threshold=share))
        ran.append(StandIn(clip, plan_preprocessing((WIDTH, HEIGHT), geometry), network))
        pipeline = NetworkPipeline(options, ran[-1])
        process(data, tmp_path / "out", options, overwrite=True, log=RunLog(), pipeline=pipeline)
        return read_scene(tmp_path / "out" / "scene").dynamic

    assert lower(0.2).masks.sum() > before.masks.sum() > lower(3.0).masks.sum()
    np.testing.assert_array_equal(lower(1.0).masks, before.masks)
    assert [run.encoded for run in ran[3:]] == [0, 0, 0]

    write_corrections(tmp_path / "out" / FOLDER, Corrections((WIDTH, HEIGHT), {"frame_00002": marks()}))
    stand_in = StandIn(clip, plan_preprocessing((WIDTH, HEIGHT), geometry), network)
    new = solve_again(tmp_path / "out", pipeline=NetworkPipeline(config, stand_in))
    assert stand_in.encoded == 0
    np.testing.assert_array_equal(read_scene(new / "scene").dynamic.masks, after.masks)
