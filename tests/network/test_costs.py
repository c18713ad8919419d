"""Counted operations against torch's own counter."""

from __future__ import annotations

import pytest
import torch

from easi3r_ns.network.blocks import Silence
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.costs import network_cost, num_parameters, weight_bytes
from easi3r_ns.network.heads import DPTHead
from easi3r_ns.network.model import DUSt3R
from tests.support.operations import counted_operations

SMALL = DUSt3RConfig(
    enc_embed_dim=48, enc_depth=3, enc_num_heads=4, dec_embed_dim=32, dec_depth=4, dec_num_heads=4, head_type="linear"
)
CONFIGS = {
    "linear": (SMALL, (3, 5)),
    "dpt": (
        DUSt3RConfig(enc_embed_dim=48, enc_depth=2, enc_num_heads=4, dec_embed_dim=32, dec_depth=4, dec_num_heads=4),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_agree_with_torch(name):
    config, grid = CONFIGS[name]
    model, cost = DUSt3R(config).eval(), network_cost(config, grid)
    tokens = grid[0] * grid[1]
    features = torch.randn(1, tokens, config.enc_embed_dim)
    images = torch.randn(1, 3, *(side * config.patch_size for side in grid))
    silence = Silence(torch.zeros(1, tokens, dtype=torch.bool), torch.ones(1, tokens, dtype=torch.bool))
    assert cost.encode == counted_operations(lambda: model.encode(images))
    assert cost.attention == pytest.approx(counted_operations(lambda: model.attention(features, features, grid)))
    plain = counted_operations(lambda: model.decode(features, features, grid))
    assert cost.decode + cost.heads == pytest.approx(plain)
    assert cost.start == counted_operations(lambda: model.start(features, grid, 0, heads=False))
    assert cost.start + cost.start_heads == counted_operations(lambda: model.start(features, grid, 1))
    assert cost.silence == pytest.approx(
        counted_operations(lambda: model.decode(features, features, grid, silence)) - plain
    )


def test_published_size():
    encoder, decoder = num_parameters(DUSt3RConfig())
    assert encoder + decoder == 571_171_208 - 768  # the published count, less the mask token of the pre-training
    assert encoder == pytest.approx(303e6, rel=0.01)  # ViT-L


def test_half_precision_halves_the_matrices_but_those_of_the_heads():
    whole, half = (weight_bytes(DUSt3RConfig(), size) for size in (4, 2))
    assert whole == tuple(4 * count for count in num_parameters(DUSt3RConfig()))
    assert half[0] == pytest.approx(whole[0] / 2, rel=0.01)
    heads = sum(p.numel() for p in DPTHead(DUSt3RConfig()).parameters())
    assert half[1] == pytest.approx((whole[1] - 8 * heads) / 2 + 8 * heads, rel=0.01)
