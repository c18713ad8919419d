"""Masks without cameras: what is written, and that the run afterwards goes on from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.cli.main import main
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.frames import ImageGeometry, plan_preprocessing
from easi3r_ns.motion.cut import over_cut
from easi3r_ns.pipelines import geometric as pipeline_geometric
from easi3r_ns.pipelines.masks_only import process_masks
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.run import RunConfig, process
from easi3r_ns.storage.corrections import AS_FOUND, MOVES, Corrections, write_corrections
from easi3r_ns.storage.files import read_png
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_geometric import NONE, NUM_FRAMES, clip, mapped, quick_masks, write_clip
from tests.pipelines.test_network import SMALL, write_images
from tests.support.standin import StandIn

__all__ = ["clip", "mapped"]
SMALL_DATASET = DatasetConfig(num_downscales=0, mask_growth=0)


@pytest.fixture
def looks(mapped: Callable, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of frames of each first look."""
    mapped()
    lengths: list[int] = []

    def found(images: np.ndarray, patch: int, *args: object, **options: object) -> DynamicMasks:
        lengths.append(len(images))
        masks = quick_masks(images, patch, *args, **options)
        score = np.where(masks.masks, 1.5, np.tile(np.linspace(0, 0.9, images.shape[2]), (*images.shape[:2], 1)))
        return replace(masks, over_cut=over_cut(score, 1.0))

    monkeypatch.setattr(pipeline_geometric, "geometric_masks", found)
    return lengths


def test_masks_are_written_and_the_run_goes_on_from_them(
    tmp_path: Path, clip: Clip, looks: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_clip(clip, tmp_path / "clip"), tmp_path / "out"
    options = ["--weights", "none", "--depth", "none", "--num-frames-target", "0", "--num-downscales", "0"]
    main(["masks", str(data), "--output-dir", str(out), *options])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{NUM_FRAMES} frames," in printed and f"ns-process-data easi3r --data {data} --output-dir {out}" in printed
    assert "--num-frames-target 0 --weights none --depth none" in printed
    names = sorted(file.name for file in (out / "partial").iterdir() if not file.name.startswith("."))
    assert names == ["contact_sheet.png", "masks", "preview.mp4", "report.html"]
    assert not (read_png(out / "partial" / "masks" / "frame_00001.png")[-8:, :8] > 0).any()
    with Image.open(out / "partial" / "contact_sheet.png") as sheet:
        assert sheet.width > 6 * 100 and np.asarray(sheet).std() > 20
    assert not (out / "transforms.json").exists()
    share = (read_png(out / "partial" / "masks" / "frame_00002.png") == 0).mean()
    main(["run", "--data", str(data), "--output-dir", str(out), *options, "--masks-only", "--mask-threshold", "0.5"])
    assert (read_png(out / "partial" / "masks" / "frame_00002.png") == 0).mean() > 2 * share
    config = RunConfig(FrameConfig(0), NONE, dataset=DatasetConfig(num_downscales=0, report=False), keep_stages=True)
    process(data, out, config, overwrite=False, log=RunLog())
    assert (out / "transforms.json").exists() and not (out / "partial" / "masks").exists()
    assert looks == [NUM_FRAMES]
    main(["masks", str(data), "--output-dir", str(out), *options])
    assert (out / "transforms.json").exists() and looks == [NUM_FRAMES]


def test_corrections_and_evaluation_views_are_those_of_the_run(tmp_path: Path, clip: Clip, looks: list[int]) -> None:
    data, held_out = write_clip(clip, tmp_path / "clip"), write_clip(clip, tmp_path / "eval", 3)
    image = np.full((120, 160), AS_FOUND, dtype=np.uint8)
    image[:30, -40:] = MOVES
    write_corrections(tmp_path / "own", Corrections((160, 120), {"frame_00002": image}))
    easi3r = replace(NONE, corrections=tmp_path / "own")
    config = RunConfig(FrameConfig(0), easi3r, dataset=replace(SMALL_DATASET, report=False), eval_data=held_out)
    found = process_masks(data, tmp_path / "out", config, log=RunLog())
    assert looks == [NUM_FRAMES, 3] and found.frames == NUM_FRAMES + 3 and found.objects >= 1
    static = read_png(found.folder / "masks" / "frame_00002.png")[..., 0] > 0
    assert not static[:25, -35:].any() and not list(found.folder.glob("*.html"))


def test_several_datasets_are_refused(tmp_path: Path, clip: Clip) -> None:
    data = write_clip(clip, tmp_path / "clip")
    config, other = RunConfig(easi3r=NONE), write_clip(clip, tmp_path / "other")
    with pytest.raises(InputError, match="--on-cut split makes several"):
        process_masks(data, tmp_path / "out", replace(config, frames=FrameConfig(on_cut="split")), log=RunLog())
    with pytest.raises(InputError, match="found clip by clip"):
        process_masks(data, tmp_path / "out", replace(config, more_data=(other,)), log=RunLog())
    own = tmp_path / "out" / "partial" / "masks"
    with pytest.raises(InputError, match="would be replaced"):
        process_masks(data, tmp_path / "out", replace(config, easi3r=replace(NONE, masks=own)), log=RunLog())
    assert not (tmp_path / "out").exists()


def test_a_network_shows_every_frame_once(tmp_path: Path) -> None:
    clip, network = render_clip(5, 4, 120, 160), replace(SMALL, image_size=64)
    data, out = write_images(clip, tmp_path / "clip"), tmp_path / "out"
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square)
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights="tiny", device="cpu", motion="attention"),
        AlignConfig(iterations=5),
        replace(SMALL_DATASET, report=False),
        RefineConfig("none"),
        keep_stages=True,
    )
    ran = [StandIn(clip, plan_preprocessing((160, 120), geometry), network) for _ in range(2)]
    process_masks(data, out, config, log=RunLog(), pipeline=NetworkPipeline(config, ran[0]))
    process(data, out, config, overwrite=False, log=RunLog(), pipeline=NetworkPipeline(config, ran[1]))
    assert [run.encoded for run in ran] == [4, 0]
