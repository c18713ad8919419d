"""nerfstudio's own trainer takes a written dataset: nerfacto on the CPU, a few iterations, and the loss falls."""

from __future__ import annotations

import math

import pytest
import torch

from easi3r_ns.training.scenes import render_clip
from tests.pipelines.test_network import SMALL, run_stand_in

NUM_STEPS = 40
SMALL_NERFACTO = (
    "--pipeline.model.implementation torch --pipeline.model.num-nerf-samples-per-ray 12 "
    "--pipeline.model.num-proposal-samples-per-ray 24 12 --pipeline.model.log2-hashmap-size 12 "
    "--pipeline.model.num-levels 4 --pipeline.model.max-res 128 --pipeline.datamanager.train-num-rays-per-batch 512 "
    "--machine.device-type cpu --machine.num-devices 1 --mixed-precision False --vis tensorboard"
)


class NoLPIPS(torch.nn.Module):
    """The metric's weights are a download; training does not need them."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return run_stand_in(tmp_path_factory.mktemp("train"), render_clip(5, 6, 240, 320), SMALL)[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parser", ["nerfstudio-data", "easi3r-data"])
def test_ns_train_starts_and_its_loss_falls(dataset, tmp_path, monkeypatch, parser):
    import torchmetrics.image.lpip
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    monkeypatch.setattr(torchmetrics.image.lpip, "LearnedPerceptualImagePatchSimilarity", NoLPIPS)
    arguments = f"nerfacto {SMALL_NERFACTO} --output-dir {tmp_path} {parser} --data {dataset} --eval-mode interval"
    config = tyro.cli(AnnotatedBaseConfigUnion, args=arguments.split())
    config.set_timestamp()
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    losses = [float(trainer.train_iteration(step)[1]["rgb_loss"]) for step in range(NUM_STEPS)]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5]), losses
    times = trainer.pipeline.datamanager.train_dataset.cameras.times
    if parser == "easi3r-data":
        assert times is not None and 0 <= float(times.min()) < float(times.max()) <= 1
    else:
        assert times is None
