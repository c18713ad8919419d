"""Measures how fast this machine runs a network, by timing parts of it with random weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..core.runlog import resident_memory_bytes
from ..network.blocks import DecoderBlock, EncoderBlock
from ..network.compute import Compute
from ..network.config import DUSt3RConfig
from ..network.costs import activation_bytes, network_cost
from ..network.heads import DPTHead, LinearHead
from ..network.rope import rope_tables

LEAST_SECONDS = 0.03
"""A call is repeated until its timings add up to this; the fastest one counts."""
HEAD_SHRINK = 2
"""On a CPU a head is timed on a token grid whose sides are divided by this, because the whole grid takes seconds; the
time is then scaled by the number of operations."""


@dataclass(frozen=True)
class Rates:
    """Seconds that parts of the network take on this machine, and the memory of the process without the network."""

    encode: float
    """Seconds of one frame in the encoder."""
    attend: float
    """Seconds of one ordered pair in pass 1."""
    decode: float
    """Seconds of one ordered pair in pass 2, heads included."""
    base_bytes: float
    """Resident memory of the process before the network is loaded."""


@torch.inference_mode()
def calibrate(network: DUSt3RConfig, grid: tuple[int, int], compute: Compute) -> Rates:
    """Time one encoder block, one decoder block and part of a head at the image size of the run.

    Takes one to two seconds for the published networks on a CPU, and about 0.1 s for small ones.
    """
    base = resident_memory_bytes()
    tokens, item = grid[0] * grid[1], activation_bytes(network, grid)
    cost = network_cost(network, grid)
    with torch.device(compute.device):
        encoder_tables = rope_tables(grid, network.enc_embed_dim // network.enc_num_heads, 1.0, compute.device)
        decoder_tables = rope_tables(grid, network.dec_embed_dim // network.dec_num_heads, 1.0, compute.device)
        encoder = EncoderBlock(network.enc_embed_dim, network.enc_num_heads, network.mlp_ratio).eval()
        decoder = DecoderBlock(network.dec_embed_dim, network.dec_num_heads, network.mlp_ratio).eval()
        frames = torch.randn(compute.batch_for(tokens, item.encode), tokens, network.enc_embed_dim)
        pairs = torch.randn(compute.batch_for(tokens, item.decode + item.heads), tokens, network.dec_embed_dim)
    encoder_block = _seconds(lambda: encoder(frames, encoder_tables), compute) / len(frames)
    decoder_block = _seconds(lambda: decoder(pairs, pairs, decoder_tables), compute) / len(pairs)
    decoders = 2 * network.dec_depth * decoder_block
    return Rates(
        encode=network.enc_depth * encoder_block,
        attend=decoders * cost.attention / cost.decode,
        decode=decoders * (cost.decode + cost.silence) / cost.decode + _heads(network, grid, compute, len(pairs)),
        base_bytes=base,
    )


def _heads(network: DUSt3RConfig, grid: tuple[int, int], compute: Compute, batch: int) -> float:
    """Seconds of both heads of one pair."""
    small = grid
    if compute.device.type == "cpu":
        small = max(2, grid[0] // HEAD_SHRINK), max(2, grid[1] // HEAD_SHRINK)
    with torch.device(compute.device):
        head = DPTHead(network) if network.head_type == "dpt" else LinearHead(network)
        head.eval()
        tokens = {
            layer: torch.randn(batch, small[0] * small[1], network.dec_embed_dim if layer else network.enc_embed_dim)
            for layer in head.layers
        }
    with torch.autocast(compute.device.type, enabled=False):
        seconds = _seconds(lambda: head(tokens, small), replace(compute, dtype=torch.float32)) / batch
    return 2 * seconds * network_cost(network, grid).heads / network_cost(network, small).heads


def _seconds(call: Callable[[], object], compute: Compute) -> float:
    """Fastest time of a call in seconds, after one call to warm up."""
    synchronise = torch.cuda.synchronize if compute.device.type == "cuda" else lambda: None

    def once() -> float:
        synchronise()
        begin = time.perf_counter()
        with compute.autocast():
            call()
        synchronise()
        return time.perf_counter() - begin

    once()
    taken = [once()]
    while sum(taken) < LEAST_SECONDS:
        taken.append(once())
    return min(taken)
