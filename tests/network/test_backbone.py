"""The network against the golden arrays, and its fast paths against their obvious twins."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from easi3r_ns.network.blocks import (
    CrossAttention,
    Silence,
    attend_silenced,
    mean_query_logits,
)
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import DUSt3R, Start, absolute_positions
from easi3r_ns.network.rope import apply_rope, rope_tables
from tests.support.helpers import GOLDEN, golden_model, load_golden
from tests.support.twins import cross_attention_naive

CASES = [
    ("tiny_dpt", "tiny_dpt_64x96"),
    ("tiny_dpt", "tiny_dpt_96x64"),
    ("tiny_linear", "tiny_linear_64x64"),
    ("tiny_linear", "tiny_linear_64x96"),
    ("fulldpt_procedural", "fulldpt_procedural_48x80"),
]
TOKENS = {"atol": 1e-4, "rtol": 0}
POINTS = {"atol": 1e-3, "rtol": 1e-3}


@pytest.fixture(scope="module", params=CASES, ids=[c[1] for c in CASES])
def case(request):
    config, arrays = request.param
    golden = load_golden("tiny_model", arrays)
    model = golden_model(config)
    images = [torch.from_numpy(golden[f"img{view}"])[None] for view in (1, 2)]
    with torch.inference_mode():
        features = [model.encode(image) for image in images]
    return model, golden, features, model.token_grid(*images[0].shape[-2:])


def silence_of(golden: dict, prefix: str, patch: int, grid: tuple[int, int]) -> Silence | None:
    if prefix == "p1_":
        return None
    tokens = []
    for view in (1, 2):
        mask = golden[f"mask{view}"].reshape(grid[0], patch, grid[1], patch).any(axis=(1, 3))
        if f"p2_token_mask{view}" in golden:
            np.testing.assert_array_equal(mask.ravel(), golden[f"p2_token_mask{view}"].ravel() > 0.5)
        tokens.append(torch.from_numpy(mask.reshape(1, -1)))
    return Silence(*tokens)


@pytest.mark.parametrize("prefix", ["p1_", "p2_"])
@torch.inference_mode()
def test_every_golden_array(case, prefix):
    model, golden, features, grid = case
    silence = silence_of(golden, prefix, model.config.patch_size, grid)
    tokens_i, tokens_j, attention = model.decoder_tokens(*features, grid, silence)
    output = model.decode(*features, grid, silence)
    ours = {"enc_feat1": features[0], "enc_feat2": features[1], "match_feature1": features[0].unflatten(1, grid)}
    ours |= {f"dec1_tok{layer:02d}": value for layer, value in tokens_i.items()}
    ours |= {f"dec2_tok{layer:02d}": value for layer, value in tokens_j.items()}
    ours |= {"cross_atten_maps_k1": attention.on_j, "cross_atten_maps_k2": attention.on_i}
    points = {
        "pts3d": output.points_i,
        "conf": output.conf_i,
        "pts3d_in_other_view": output.points_j,
        "conf2": output.conf_j,
    }
    not_compared = {"enc_pos1", "token_mask1", "token_mask2"} | {
        f"cross_logits{view}_l{layer}" for view in (1, 2) for layer in ("00", "11")
    }
    names = {name.removeprefix(prefix) for name in golden if name.startswith(prefix)} - not_compared
    assert {"pts3d", "conf", "pts3d_in_other_view", "conf2"} <= names <= ours.keys() | points.keys()
    for name in names:
        tolerance = POINTS if name in points else TOKENS
        value = (points | ours)[name].numpy()
        np.testing.assert_allclose(value, golden[prefix + name], err_msg=name, **tolerance)


@pytest.mark.parametrize("prefix", ["p1_", "p2_"])
@torch.inference_mode()
def test_golden_logits_of_first_and_last_layer(case, prefix):
    """The explicit logits are the reference's, and their mean over queries is our closed form."""
    model, golden, features, grid = case
    if prefix + "cross_logits1_l00" not in golden:
        pytest.skip("this golden file holds no logits")
    silence = silence_of(golden, prefix, model.config.patch_size, grid)
    tokens_i, tokens_j, attention = model.decoder_tokens(*features, grid, silence)
    (x0, *_), (y0, *_) = model._starts(*features, grid, heads=False)
    tables = model._tables(grid, x0.device)
    heads = model.config.dec_num_heads
    for layer in (0, 11):
        x, y = (x0, y0) if layer == 0 else (tokens_i[layer], tokens_j[layer])
        for view, block, own, other, means in (
            (1, model.dec_blocks[layer], x, y, attention.on_j),
            (2, model.dec_blocks2[layer], y, x, attention.on_i),
        ):
            own = own + block.attn(block.norm1(own), tables)
            q, k = block.cross_attn.queries_keys(block.norm2(own), block.norm_y(other), tables)
            _, logits = cross_attention_naive(q, k, k)
            np.testing.assert_allclose(logits.numpy(), golden[f"{prefix}cross_logits{view}_l{layer:02d}"], **TOKENS)
            ours = means[..., layer * heads : (layer + 1) * heads].flatten(1, 2).transpose(1, 2)
            np.testing.assert_allclose(logits.mean(dim=2).numpy(), ours.numpy(), **TOKENS)


@torch.inference_mode()
def test_attention_only_pass_equals_full_decoding(case):
    model, golden, features, grid = case
    short, full = model.attention(*features, grid), model.decode(*features, grid).attention
    torch.testing.assert_close(short.on_j, full.on_j)
    torch.testing.assert_close(short.on_i, full.on_i)


@torch.inference_mode()
def test_batch_equals_loop():
    model, rng = golden_model("tiny_dpt"), np.random.default_rng(0)
    images = torch.from_numpy(rng.uniform(-1, 1, (4, 3, 48, 80)).astype(np.float32))
    features, grid = model.encode(images), model.token_grid(48, 80)
    torch.testing.assert_close(features, torch.cat([model.encode(image[None]) for image in images]), **POINTS)
    i, j = [0, 1, 3, 2, 2], [1, 0, 2, 3, 0]
    masks = torch.from_numpy(rng.random((4, features.shape[1])) < 0.3)
    batch = model.decode(features[i], features[j], grid, Silence(masks[i], masks[j]))
    for row, (a, b) in enumerate(zip(i, j)):
        single = model.decode(features[[a]], features[[b]], grid, Silence(masks[[a]], masks[[b]]))
        for name in ("points_i", "conf_i", "points_j", "conf_j"):
            torch.testing.assert_close(getattr(batch, name)[[row]], getattr(single, name), **POINTS)
        torch.testing.assert_close(batch.attention.on_j[[row]], single.attention.on_j, **TOKENS)
        torch.testing.assert_close(batch.attention.on_i[[row]], single.attention.on_i, **TOKENS)


def test_silencing_by_zeroed_values_equals_the_explicit_softmax():
    torch.manual_seed(0)
    layer, tables = CrossAttention(48, 4), rope_tables((3, 4), 12, 1.0, torch.device("cpu"))
    x, y = torch.randn(2, 12, 48), torch.randn(2, 12, 48)
    silence = Silence(torch.rand(2, 12) < 0.4, torch.rand(2, 12) < 0.4)
    q, k = layer.queries_keys(x, y, tables)
    v = layer._split(layer.projv(y))
    for quiet in (None, silence):
        expected, logits = cross_attention_naive(q, k, v, quiet)
        out, means = layer(x, y, tables, quiet)
        torch.testing.assert_close(out, layer.proj(expected.transpose(1, 2).flatten(-2)))
        torch.testing.assert_close(means, logits.mean(dim=2))
    assert not torch.allclose(layer(x, y, tables)[0], layer(x, y, tables, silence)[0], atol=1e-3)


@pytest.mark.parametrize("most", [None, 5, 12])
def test_only_dynamic_queries_attend_twice(most):
    """Pairs with many, few and no dynamic queries in one batch; a bound may be larger than what is there."""
    torch.manual_seed(3)
    q, k, v = torch.randn(3, 3, 4, 12, 8)
    dynamic = torch.zeros(3, 12, dtype=torch.bool)
    dynamic[0, [1, 4, 5, 8, 11]] = True
    dynamic[1, 7] = True
    silence = Silence(dynamic, torch.rand(3, 12) < 0.4, most)
    expected, _ = cross_attention_naive(q, k, v, silence)
    torch.testing.assert_close(attend_silenced(q, k, v, silence), expected)
    still = Silence(torch.zeros_like(dynamic), silence.key_dynamic, 0)
    torch.testing.assert_close(attend_silenced(q, k, v, still), cross_attention_naive(q, k, v, still)[0])


@pytest.mark.parametrize("name", ["tiny_dpt", "tiny_linear"])
@torch.inference_mode()
def test_frames_started_once_give_what_pairs_give(name):
    """One start per frame and view, gathered for the pairs, against encoding from scratch in every pair."""
    model, rng = golden_model(name), np.random.default_rng(0)
    features, grid = model.encode(torch.from_numpy(rng.uniform(-1, 1, (3, 3, 48, 64)).astype(np.float32))), (3, 4)
    i, j = [0, 1, 0, 2], [1, 0, 2, 0]
    starts = tuple(
        Start(*(None if part is None else part[rows] for part in model.start(features, grid, view)))
        for view, rows in ((0, i), (1, j))
    )
    assert (starts[0].finest is None) == (name == "tiny_linear")
    ours, plain = model.decode_from(starts, grid), model.decode(features[i], features[j], grid)
    for field in ("points_i", "conf_i", "points_j", "conf_j"):
        torch.testing.assert_close(getattr(ours, field), getattr(plain, field), **POINTS)
    short = model.attention_from(starts, grid)
    torch.testing.assert_close(short.on_j, plain.attention.on_j, **TOKENS)
    torch.testing.assert_close(short.on_i, plain.attention.on_i, **TOKENS)


def test_mean_query_logits_without_a_matrix():
    torch.manual_seed(1)
    q, k = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8)
    torch.testing.assert_close(mean_query_logits(q, k), (q @ k.mT * 8**-0.5).mean(dim=2))


def test_rope_depends_on_relative_position_only():
    torch.manual_seed(2)
    tables = rope_tables((5, 7), 16, 1.0, torch.device("cpu"))
    q, k = torch.randn(16), torch.randn(16)
    rotated_q = apply_rope(q.expand(1, 1, 35, 16), tables)[0, 0].view(5, 7, 16)
    rotated_k = apply_rope(k.expand(1, 1, 35, 16), tables)[0, 0].view(5, 7, 16)
    here = (rotated_q[1, 2] * rotated_k[3, 5]).sum()
    there = (rotated_q[0, 1] * rotated_k[2, 4]).sum()
    elsewhere = (rotated_q[1, 2] * rotated_k[5 - 1, 2]).sum()
    torch.testing.assert_close(here, there)
    assert abs(here - elsewhere) > 1e-3
    torch.testing.assert_close(rotated_q.norm(dim=-1), q.norm().expand(5, 7))


def test_stretched_rope_at_double_resolution_meets_the_coarse_grid():
    coarse = rope_tables((3, 4), 8, 1.0, torch.device("cpu"))
    fine = rope_tables((6, 8), 8, 0.5, torch.device("cpu"))
    for a, b in zip(coarse, fine):
        torch.testing.assert_close(a.view(3, 4, 8), b.view(6, 8, 8)[::2, ::2])


def test_absolute_positions_are_centred_and_isotropic():
    wide, tall = absolute_positions((3, 5), 16).view(3, 5, 16), absolute_positions((5, 3), 16).view(5, 3, 16)
    torch.testing.assert_close(wide[..., [0, 1, 2, 3]], tall.transpose(0, 1)[..., [4, 5, 6, 7]])
    torch.testing.assert_close(wide[1, 2, :8], torch.zeros(8))


@pytest.mark.parametrize(
    "fields",
    [
        {"head_type": "linear", "patch_size": 8, "absolute_position": True, "rope_stretch": 0.5},
        {"head_type": "dpt", "dec_depth": 8, "dpt_feature_dim": 8, "dpt_last_dim": 4, "dpt_layer_dims": (4, 8, 8, 8)},
    ],
)
@torch.inference_mode()
def test_other_shapes(fields):
    small = {"enc_embed_dim": 32, "enc_depth": 1, "enc_num_heads": 2, "dec_embed_dim": 24, "dec_num_heads": 3}
    config = DUSt3RConfig(**({"dec_depth": 4} | small | fields))
    model = DUSt3R(config).eval()
    images = torch.rand(2, 3, 3 * config.patch_size, 5 * config.patch_size) * 2 - 1
    features = model.encode(images)
    output = model.decode(features[:1], features[1:], model.token_grid(*images.shape[-2:]))
    assert output.points_i.shape == (1, *images.shape[-2:], 3)
    assert output.attention.on_j.shape == (1, 3, 5, config.dec_depth * 3)
    assert bool((output.conf_j > 1).all())


def test_sizes_that_do_not_divide_are_refused():
    with torch.device("meta"):
        model = DUSt3R(DUSt3RConfig())
    with pytest.raises(ValueError, match="multiples of the patch size 16"):
        model.token_grid(100, 160)
    with pytest.raises(ValueError, match="DPT head enlarges"):
        DUSt3R(DUSt3RConfig(patch_size=8))


def test_procedural_weights_are_the_golden_ones():
    checksums = json.loads((GOLDEN / "tiny_model" / "fulldpt_procedural_weight_checksums.json").read_text())
    state = golden_model("fulldpt_procedural").state_dict()
    for key, value in state.items():
        shape, total, first = checksums[key]
        assert list(value.shape) == shape
        np.testing.assert_allclose([value.double().sum(), value.flatten()[0]], [total, first], rtol=1e-4, atol=1e-3)


def test_tables_made_during_inference_serve_training():
    rope_tables.cache_clear()
    model = DUSt3R(DUSt3RConfig(8, 16, 1, 2, 16, 4, 2, head_type="linear"))
    with torch.inference_mode():
        model.encode(torch.zeros(1, 3, 8, 16))
    model.encode(torch.zeros(1, 3, 8, 16)).sum().backward()
    assert model.patch_embed.proj.weight.grad is not None


@torch.inference_mode()
def test_strips_of_the_head_equal_the_whole(monkeypatch):
    head, path = golden_model("fulldpt_procedural").downstream_head1.dpt, torch.randn(2, 256, 12, 20)
    path = head.head[0](path)
    whole = head.head[1:](path)
    for numbers in (1, 2 * 128 * 40 * 7, 2 * 128 * 40 * 8, 1 << 30):
        monkeypatch.setattr("easi3r_ns.network.heads.STRIP_NUMBERS", numbers)
        torch.testing.assert_close(head._enlarge(path), whole, **TOKENS)
