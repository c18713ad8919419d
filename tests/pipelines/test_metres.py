"""--metric-reference and --camera-height in a run: what is refused before the long work, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.cli.summary import summary
from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.pipelines.parts import process_parts
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import ProcessResult, process
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_network import write_images
from tests.pipelines.test_seams import Oracle


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, 4, 96, 128)


def run(tmp_path: Path, clip: Clip, oracle: Oracle, **options: object) -> ProcessResult:
    dataset = DatasetConfig(num_downscales=0, report=False, **options)  # type: ignore[arg-type]
    config = RunConfig(FrameConfig(num_frames_target=0), dataset=dataset)
    data = tmp_path / "clip"
    return process(
        *(data if data.exists() else write_images(clip, data), tmp_path / "out", config),
        overwrite=False,
        log=RunLog(),
        pipeline=oracle,
    )


@pytest.mark.parametrize(
    ("reference", "said"), [("5 10 10 60 60 1", "no picture '5'"), ("2 10 10 600 60 1", "has 128x96 pixels")]
)
def test_what_cannot_be_meant_is_refused_before_the_work(tmp_path, clip, reference: str, said: str) -> None:
    oracle = Oracle(clip, tmp_path / "truth")
    with pytest.raises(InputError, match=said):
        run(tmp_path, clip, oracle, metric_reference=reference)
    assert "reconstruct" not in oracle.called


def test_a_distance_needs_depth(tmp_path, clip) -> None:
    oracle = Oracle(clip, tmp_path / "truth")
    oracle.has_depth = False
    with pytest.raises(InputError, match="--depth none measures none"):
        run(tmp_path, clip, oracle, metric_reference="1 10 10 60 60 1")
    assert not oracle.called and not (tmp_path / "out").exists()


def test_a_place_that_moves_leaves_no_dataset_and_another_goes_on(tmp_path, clip) -> None:
    row, column = np.argwhere(clip.moving[1])[0]
    with pytest.raises(InputError, match="lies on what moves.*the same command with another value goes on"):
        run(tmp_path, clip, Oracle(clip, tmp_path / "t"), metric_reference=f"2 {column + 0.5} {row + 0.5} 90 90 1")
    assert not (tmp_path / "out" / "transforms.json").exists()
    still = np.argwhere(~clip.moving[1])
    (r1, c1), (r2, c2) = still[0], still[-1]
    truth = float(np.linalg.norm(clip.points(1)[r1, c1] - clip.points(1)[r2, c2]))
    reference = f"frame_00002.png {c1 + 0.5} {r1 + 0.5} {c2 + 0.5} {r2 + 0.5} {10 * truth}"
    result = run(tmp_path, clip, Oracle(clip, tmp_path / "t"), metric_reference=reference)
    facts = json.loads(result.transforms_path.read_text())["easi3r"]["scale"]
    assert facts["unit"] == "metre" and facts["factor"] == pytest.approx(10, rel=0.02)
    assert facts["picture"] == "frame_00002" and 0 < facts["sigma"] < 0.1
    scene = find_scene(tmp_path / "out")
    np.testing.assert_allclose(scene.depth, clip.depth * facts["factor"], rtol=1e-5)
    assert scene.provenance["scale"] == facts
    provenance = scene.provenance | {"weights": {"name": "none"}, "depth": "stereo"}
    lines = dict(summary(replace(result, scene=replace(scene, provenance=provenance))))
    assert lines["lengths"].startswith("in metres by the measured distance (1 sigma")


def test_height_of_the_camera(tmp_path, clip) -> None:
    height = 3 * float(np.median(clip.T_world_cam[:, 2, 3]))
    facts = run(tmp_path, clip, Oracle(clip, tmp_path / "t"), camera_height=height).scene.provenance["scale"]
    assert facts["source"] == "camera-height" and facts["factor"] == pytest.approx(3, rel=0.02)


def test_without_a_measurement_the_unit_is_arbitrary(tmp_path, clip) -> None:
    result = run(tmp_path, clip, Oracle(clip, tmp_path / "t"))
    assert result.scene.provenance["scale"] == {"unit": "arbitrary"}


def test_parts_of_a_clip_have_no_common_reference(tmp_path, clip, monkeypatch) -> None:
    state = {"key": {}, "parts": [[0, 2, 10], [2, 4, 10]], "done": []}
    monkeypatch.setattr("easi3r_ns.pipelines.parts._find", lambda *args: state)
    config = RunConfig(
        FrameConfig(on_cut="split"),
        Easi3RConfig(weights="none"),
        dataset=DatasetConfig(metric_reference="1 10 10 60 60 1"),
    )
    data = write_images(clip, tmp_path / "clip")
    with pytest.raises(InputError, match="belongs to one scene"):
        process_parts(data, tmp_path / "out", config, overwrite=False, log=RunLog())
