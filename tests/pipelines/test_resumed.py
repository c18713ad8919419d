"""A run that was interrupted and goes on gives the very numbers of one that was not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry
from easi3r_ns.frames.preprocess import plan_preprocessing
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import process
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_network import write_images
from tests.pipelines.test_zeros import NETWORK
from tests.support.standin import StandIn

CONFIG = RunConfig(
    FrameConfig(num_frames_target=0),
    Easi3RConfig(weights="stand-in", device="cpu"),
    AlignConfig(iterations=30),
    DatasetConfig(num_downscales=0, report=False),
    RefineConfig("none"),
)


class EndsAfter(RunLog):
    """Interrupts the run when so many stages are done."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    @contextlib.contextmanager
    def _display(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        with super()._display(name, total) as advance:
            yield advance
        if len(self.stages) + 1 == self.count:
            raise KeyboardInterrupt


def run(clip: Clip, data: Path, out: Path, log: RunLog) -> None:
    # The stand-in knows the frames by the order in which they are encoded: a new one for every run.
    network = StandIn(clip, plan_preprocessing((128, 96), ImageGeometry(128, 16)), NETWORK)
    process(data, out, CONFIG, overwrite=False, log=log, pipeline=NetworkPipeline(CONFIG, network))


@pytest.mark.long
def test_arrays_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    clip, log = render_clip(5, 5, 96, 128), RunLog()
    data = write_images(clip, tmp_path / "clip")
    run(clip, data, tmp_path / "whole", log)
    names = [stage.name for stage in log.stages]
    assert len(names) > 8
    with np.load(tmp_path / "whole" / "scene" / "arrays.npz") as archive:
        wanted = {name: archive[name] for name in archive.files}
    for count in range(2, len(names), 4):
        out = tmp_path / f"after_{count}"
        with pytest.raises(KeyboardInterrupt):
            run(clip, data, out, EndsAfter(count))
        run(clip, data, out, RunLog())
        with np.load(out / "scene" / "arrays.npz") as archive:
            assert sorted(archive.files) == sorted(wanted)
            for name, values in wanted.items():
                np.testing.assert_array_equal(archive[name], values, err_msg=f"{name} after {names[count - 1]}")
