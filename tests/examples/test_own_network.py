"""The code of own_network.md makes a dataset around a stand-in that knows the truth."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.similarity import align_cameras
from easi3r_ns.frames import ImageGeometry
from easi3r_ns.training.scenes import render_clip
from tests.pipelines.test_network import write_images

PAGE = Path(__file__).parents[2] / "examples" / "guide" / "own_network.md"
LONGEST = 75
FRAMES = 5


@pytest.mark.slow
def test_the_page_makes_a_dataset(tmp_path, monkeypatch):
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) < LONGEST
    (tmp_path / "own_network.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("own_network")
    monkeypatch.setattr(module.MultiViewPipeline, "geometry", ImageGeometry(256, 16))
    clip = render_clip(5, FRAMES, 192, 256)

    def network(images: np.ndarray) -> tuple[np.ndarray, ...]:
        assert images.shape == (FRAMES, 192, 256, 3) and images.dtype == np.uint8
        world = np.eye(4)
        world[:3, 3] = [3, -1, 2]
        return world @ clip.T_world_cam, np.full(FRAMES, clip.focal), clip.depth, np.full(clip.depth.shape, 3.0)

    scene = module.make(write_images(clip, tmp_path / "clip"), tmp_path / "out", network)
    truth = clip.T_world_cam
    over = align_cameras(scene.T_world_cam, truth)
    centres = over.scale * scene.T_world_cam[:, :3, 3] @ over.R.T + over.t
    np.testing.assert_allclose(centres, truth[:, :3, 3], atol=1e-6)
    moving = clip.moving
    agreement = (scene.dynamic.masks & moving).sum() / (scene.dynamic.masks | moving).sum()
    assert scene.provenance["motion"]["kept"] == "second" and agreement > 0.5
    meta = json.loads((tmp_path / "out" / "transforms.json").read_text(encoding="utf-8"))
    assert len(meta["frames"]) == FRAMES and (tmp_path / "out" / "report.html").is_file()
