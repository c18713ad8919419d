"""A run with 0 for every option of the pipeline that takes it (see tests/cli/test_numbers.py)."""

from __future__ import annotations

import json
from pathlib import Path

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry
from easi3r_ns.frames.preprocess import plan_preprocessing
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import process
from easi3r_ns.training.scenes import render_clip
from tests.pipelines.test_network import write_images
from tests.support.standin import StandIn

NETWORK = DUSt3RConfig(
    patch_size=16, enc_embed_dim=32, enc_num_heads=2, dec_embed_dim=32, dec_num_heads=2, image_size=128
)


def test_all_zeros_at_once(tmp_path: Path) -> None:
    clip = render_clip(5, 4, 96, 128)
    config = RunConfig(
        FrameConfig(num_frames_target=0, start=0),
        Easi3RConfig(weights="stand-in", device="cpu", min_confidence=0, seed=0, batch_size=0, window=0),
        AlignConfig(
            iterations=0,
            flow_weight=0,
            flow_start=0,
            smooth_weight=0,
            smooth_translation_weight=0,
            depth_weight=0,
            max_pixels=0,
        ),
        DatasetConfig(num_downscales=0, mask_growth=0, report=False),
        RefineConfig("none"),
    )
    network = StandIn(clip, plan_preprocessing((128, 96), ImageGeometry(128, 16)), NETWORK)
    data, out = write_images(clip, tmp_path / "clip"), tmp_path / "out"
    process(data, out, config, overwrite=False, log=RunLog(), pipeline=NetworkPipeline(config, network))
    assert len(json.loads((out / "transforms.json").read_text())["frames"]) == len(clip)
