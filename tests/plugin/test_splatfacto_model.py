"""splatfacto-easi3r's losses and metrics, fed with outputs: nerfstudio's numbers without a mask, static ones with."""

from __future__ import annotations

import math

import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig

from easi3r_ns.core.errors import InputError
from easi3r_ns.plugin.splatfacto.model import Easi3RSplatfactoModel, Easi3RSplatfactoModelConfig
from tests.support.splat_standin import LPIPS, without_gpu

HEIGHT, WIDTH = 30, 44
FEW = {"num_random": 8, "sh_degree": 0}


def _model(config_type: type = Easi3RSplatfactoModelConfig, **options) -> SplatfactoModel:
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    with without_gpu():
        return config_type(**FEW | options).setup(scene_box=box, num_train_data=3).eval()


def _batch(channels: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    image = torch.rand(HEIGHT, WIDTH, channels, generator=torch.Generator().manual_seed(0))
    return {"image": (image * 255).to(torch.uint8) if dtype == torch.uint8 else image}


def _outputs(seed: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    rgb, depth = torch.rand(*size, 3, generator=random), 1 + torch.rand(*size, 1, generator=random)
    return {"rgb": rgb, "depth": depth, "background": torch.tensor([0.2, 0.4, 0.6])}


def _mask() -> torch.Tensor:
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[4:10, 25:] = False
    return mask


def _spoiled(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, image, 1 - image)


def assert_same(key: str, found, expected) -> None:
    """Equal to the last bit. Torch 2.1's least squares, in the colour correction, vary from call to call."""
    tolerance = 1e-4 if key.startswith("cc_") and torch.__version__.startswith("2.1.") else 0.0
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"color_corrected_metrics": True, "use_scale_regularization": True}])
@pytest.mark.parametrize("batch", [_batch(), _batch(4), _batch(dtype=torch.uint8)], ids=["rgb", "rgba", "uint8"])
def test_without_a_mask_everything_is_nerfstudios(batch, options, training):
    ours, theirs = _model(**options), _model(SplatfactoModelConfig, **options)
    theirs.load_state_dict(ours.state_dict())
    ours.step = theirs.step = 0
    ours.train(training), theirs.train(training)
    outputs = _outputs(size=(HEIGHT // 4, WIDTH // 4) if training else (HEIGHT, WIDTH))
    for name in ("get_metrics_dict", "get_loss_dict"):
        expected = getattr(theirs, name)(outputs, batch)
        found = getattr(ours, name)(outputs, batch)
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(key, found[key], expected[key])
    if training:
        return
    (found, picture), (expected, their_picture) = (
        m.get_image_metrics_and_images(outputs, batch) for m in (ours, theirs)
    )
    assert found.keys() == expected.keys() | {"static_share"} and found["static_share"] == 1
    for key in expected:
        assert_same(key, found[key], expected[key])
    assert torch.equal(picture["img"], their_picture["img"])


def test_main_loss_is_over_static_pixels():
    model, batch, outputs, mask = _model(), _batch(), _outputs(), _mask()
    found = model.get_loss_dict(outputs, batch | {"mask": mask})["main_loss"]
    difference = (outputs["rgb"] - batch["image"]).abs()
    l1 = sum(difference[y, x].mean() for y in range(HEIGHT) for x in range(WIDTH) if mask[y, x]) / mask.sum()
    values = []
    for top in range(HEIGHT - 10):
        for left in range(WIDTH - 10):
            window = slice(top, top + 11), slice(left, left + 11)
            if mask[window].all():
                pair = [image[window].permute(2, 0, 1)[None] for image in (batch["image"], outputs["rgb"])]
                values.append(model.ssim(*pair))
    assert 0 < len(values) < (HEIGHT - 10) * (WIDTH - 10)
    expected = 0.8 * l1 + 0.2 * (1 - torch.stack(values).mean())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_masked_image_weighs_as_much_as_another():
    """nerfstudio's L1 is a mean over all pixels: it shrinks with the static share. Ours does not."""
    batch, outputs = _batch(), _outputs()
    outputs["rgb"] = (batch["image"] + 0.1).clamp(max=2)
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:, : WIDTH // 2] = False
    ours, theirs = _model(ssim_lambda=0.0), _model(SplatfactoModelConfig, ssim_lambda=0.0)
    assert theirs.get_loss_dict(outputs, batch | {"mask": mask})["main_loss"].item() == pytest.approx(0.05, rel=1e-4)
    assert ours.get_loss_dict(outputs, batch | {"mask": mask})["main_loss"].item() == pytest.approx(0.1, rel=1e-4)
    assert ours.get_loss_dict(outputs, batch)["main_loss"].item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("side", ["rendered", "truth"])
def test_what_moves_changes_nothing(side):
    model, batch, outputs, mask = _model(color_corrected_metrics=True), _batch(), _outputs(), _mask()
    batch["mask"] = mask
    other_outputs, other_batch = dict(outputs), dict(batch)
    if side == "rendered":
        other_outputs["rgb"] = _spoiled(outputs["rgb"], mask)
    else:
        other_batch["image"] = _spoiled(batch["image"], mask)
    before, after = model.get_loss_dict(outputs, batch), model.get_loss_dict(other_outputs, other_batch)
    assert torch.equal(before["main_loss"], after["main_loss"])
    before, after = model.get_metrics_dict(outputs, batch), model.get_metrics_dict(other_outputs, other_batch)
    for key in ("psnr", "cc_psnr"):
        assert_same(key, after[key], before[key])
    before, _ = model.get_image_metrics_and_images(outputs, batch)
    after, _ = model.get_image_metrics_and_images(other_outputs, other_batch)
    for key in before:
        assert_same(key, after[key], before[key])
    assert set(before) == set(after) == {"psnr", "ssim", "lpips", "cc_psnr", "cc_ssim", "cc_lpips", "static_share"}


def test_measures_are_those_of_the_static_pixels():
    model, batch, outputs, mask = _model(), _batch(), _outputs(), _mask()
    outputs["rgb"] = torch.where(mask, batch["image"] * 0.9, 1 - batch["image"])
    found, pictures = model.get_image_metrics_and_images(outputs, batch | {"mask": mask})
    static = mask[..., 0]
    error = (batch["image"] - outputs["rgb"])[static].square().mean()
    assert found["psnr"] == pytest.approx(-10 * math.log10(error), rel=1e-5)
    assert model.get_metrics_dict(outputs, batch | {"mask": mask})["psnr"].item() == pytest.approx(found["psnr"])
    assert found["static_share"] == pytest.approx(static.float().mean().item())
    whole, whole_pictures = model.get_image_metrics_and_images(outputs, batch)
    assert found["psnr"] > whole["psnr"] + 3 and found["ssim"] > whole["ssim"]
    # LPIPS and the picture stay nerfstudio's.
    assert found["lpips"] == whole["lpips"] == pytest.approx(LPIPS)
    assert torch.equal(pictures["img"], whole_pictures["img"])


def test_colours_are_corrected_by_static_pixels():
    model, batch, outputs, mask = _model(color_corrected_metrics=True), _batch(), _outputs(), _mask()
    outputs["rgb"] = torch.where(mask, 0.5 * batch["image"] + 0.2, torch.zeros(1))
    found, _ = model.get_image_metrics_and_images(outputs, batch | {"mask": mask})
    assert found["cc_psnr"] > 50 > found["psnr"]


def test_an_image_in_which_everything_moves():
    model, batch, outputs = _model(color_corrected_metrics=True), _batch(), _outputs()
    batch["mask"] = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    outputs["rgb"].requires_grad_()
    loss = model.get_loss_dict(outputs, batch)["main_loss"]
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(outputs["rgb"].grad, torch.zeros(HEIGHT, WIDTH, 3))
    outputs["rgb"] = outputs["rgb"].detach()
    found, _ = model.get_image_metrics_and_images(outputs, batch)
    assert math.isnan(found["psnr"]) and math.isnan(found["ssim"]) and found["static_share"] == 0
    assert not model.is_measurable(batch)
    assert model.is_measurable(_batch()) and model.is_measurable(_batch() | {"mask": _mask()})


def test_at_a_lower_resolution_a_pixel_is_static_when_its_whole_block_is():
    model, batch = _model(num_downscales=1, ssim_lambda=0.0).train(), _batch()
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[7, 9] = False  # one pixel of block (3, 4)
    outputs = _outputs(size=(HEIGHT // 2, WIDTH // 2))
    outputs["rgb"][3, 4] = 1e3
    small = batch["image"].reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(dim=(1, 3))
    static = torch.ones(HEIGHT // 2, WIDTH // 2, dtype=torch.bool)
    static[3, 4] = False
    expected = (outputs["rgb"] - small)[static].abs().mean()
    found = model.get_loss_dict(outputs, batch | {"mask": mask})["main_loss"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_depth_term(factor):
    model = _model(num_downscales=int(math.log2(factor)), depth_weight=0.5).train()
    batch, size = _batch() | {"mask": _mask()}, (HEIGHT // factor, WIDTH // factor)
    rows = torch.linspace(1, 3, size[0])[:, None].expand(*size)
    measured = torch.zeros(HEIGHT, WIDTH)
    measured[: size[0] * factor] = rows.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    measured[12, 3] = 0  # unknown: so is its block
    measured[~batch["mask"][..., 0]] = 9.0
    outputs = _outputs(size=size)
    outputs["depth"] = rows[..., None].clone()
    outputs["depth"][12 // factor, 3 // factor] = 50.0
    batch["depth_image"] = measured[..., None]
    losses = model.get_loss_dict(outputs, batch)
    assert losses["depth_loss"].item() == pytest.approx(0, abs=1e-7)
    outputs["depth"] = 2 * outputs["depth"]
    assert model.get_loss_dict(outputs, batch)["depth_loss"].item() == pytest.approx(0.5 * math.log(2), rel=1e-5)
    # The colours' loss is what it is without the term.
    plain = _model(num_downscales=int(math.log2(factor))).train().get_loss_dict(outputs, batch)
    assert "depth_loss" not in plain and torch.equal(plain["main_loss"], losses["main_loss"])


def test_the_depth_term_needs_depths():
    model, batch, outputs = _model(depth_weight=0.1), _batch(), _outputs()
    with pytest.raises(InputError, match="--pipeline.datamanager.load-depths True"):
        model.get_loss_dict(outputs, batch)
    with pytest.raises(InputError, match="output-depth-during-training True"):
        model.get_loss_dict(outputs | {"depth": None}, batch | {"depth_image": torch.ones(HEIGHT, WIDTH, 1)})


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(InputError, match="--pipeline.model.depth-weight"):
        Easi3RSplatfactoModelConfig(depth_weight=weight)


def test_sizes_that_do_not_fit_are_said():
    model, batch, outputs = _model(depth_weight=0.1), _batch(), _outputs()
    wrong = torch.ones(HEIGHT, WIDTH - 1, 1, dtype=torch.bool)
    for call in (model.get_loss_dict, model.get_metrics_dict, model.get_image_metrics_and_images):
        with pytest.raises(InputError, match=r"mask has shape \(30, 43, 1\), its image \(30, 44, 3\)"):
            call(outputs, batch | {"mask": wrong})
    with pytest.raises(InputError, match=r"mask has shape \(30, 44\)"):
        model.get_loss_dict(outputs, batch | {"mask": torch.ones(HEIGHT, WIDTH, dtype=torch.bool)})
    with pytest.raises(InputError, match="depth_image has shape"):
        model.get_loss_dict(outputs, batch | {"depth_image": torch.ones(HEIGHT, WIDTH + 2, 1)})
    with pytest.raises(InputError, match=r"the rendering has shape \(15, 22, 3\)"):
        model.get_loss_dict(_outputs(size=(15, 22)), batch | {"mask": _mask()})


def test_it_is_a_splatfacto():
    """ns-export and the viewer ask for the class."""
    assert issubclass(Easi3RSplatfactoModel, SplatfactoModel)
