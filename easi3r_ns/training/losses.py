"""Training losses: DUSt3R's confidence-weighted regression, and two auxiliary losses on true correspondences.

These are contrastive matching of encoder tokens (as in MASt3R), and attention of one cross-attention head per layer to
the matching token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..network.blocks import CrossAttention
from ..network.model import DUSt3R, Grid
from .data import PairBatch, look_up, move

QueriesKeys = list[tuple[Tensor, Tensor]]
"""Queries and keys, (B, N, d) each, of the guided head: decoder 1 and decoder 2 in turn, layer by layer."""


def normalise(points_i: Tensor, points_j: Tensor) -> tuple[Tensor, Tensor]:
    """Divide (B, H, W, 3) points of both views by their common mean distance from camera i."""
    scale = 0.5 * (points_i.norm(dim=-1).mean((1, 2)) + points_j.norm(dim=-1).mean((1, 2)))
    scale = scale.clamp_min(1e-6)[:, None, None, None]
    return points_i / scale, points_j / scale


def regression(predicted: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, H, W) distance between normalised points, for both views (DUSt3R, equation 2)."""
    return tuple((p - t).norm(dim=-1) for p, t in zip(normalise(*predicted), normalise(*truth), strict=True))


def confidence_loss(errors: tuple[Tensor, Tensor], confidence: tuple[Tensor, Tensor], alpha: float) -> Tensor:
    """Mean of conf * error - alpha log conf over the pixels, summed over both views (DUSt3R, equation 4)."""
    return sum((c * e - alpha * c.log()).mean() for e, c in zip(errors, confidence, strict=True))


@dataclass(frozen=True)
class TokenMatches:
    """Where view j shows the centres of view i's N tokens."""

    row: Tensor
    """(B, N) pixel of view j."""
    column: Tensor
    """(B, N)."""
    seen: Tensor
    """(B, N) bool: whether view j shows it at all."""
    grid: Grid
    patch: int

    def tokens(self) -> Tensor:
        """(B, N): the token of view j that holds the pixel."""
        return self.row // self.patch * self.grid[1] + self.column // self.patch

    def weights(self) -> Tensor:
        """(B, N, N): bilinear weights of view j's tokens around the pixel.

        Their mean position is the pixel's, up to half a token at the border.
        """
        weights = []
        for pixel, count in zip((self.row, self.column), self.grid, strict=True):
            token = torch.arange(count, device=pixel.device)
            place = ((pixel - (self.patch - 1) / 2) / self.patch).clamp(0, count - 1)
            weights.append((1 - (place[..., None] - token).abs()).clamp_min(0))
        return (weights[0][..., :, None] * weights[1][..., None, :]).flatten(-2)


def true_matches(batch: PairBatch, patch: int) -> TokenMatches:
    """What matches in a batch of pairs, from its true points and cameras."""
    height, width = batch.points.shape[2:4]
    centres = batch.points[0][:, patch // 2 :: patch, patch // 2 :: patch]
    from_i = move(torch.linalg.inv(batch.T_i_j), centres).flatten(1, 2)
    pixel, seen = look_up(from_i, batch.points[1][..., 2], batch.focal[1])
    return TokenMatches(pixel // width, pixel % width, seen, (height // patch, width // patch), patch)


@contextlib.contextmanager
def guided_head(model: DUSt3R) -> Iterator[QueriesKeys]:
    """Collect queries and keys of head 0 of every cross-attention while the model decodes, but for the last layer."""
    looks: QueriesKeys = []

    def listen(attention: CrossAttention) -> None:
        original = attention.queries_keys

        def queries_keys(*args: Tensor) -> tuple[Tensor, Tensor]:
            q, k = original(*args)
            looks.append((q[:, 0], k[:, 0]))
            return q, k

        attention.queries_keys = queries_keys

    guided = [b.cross_attn for pair in zip(model.dec_blocks[:-1], model.dec_blocks2[:-1], strict=True) for b in pair]
    for attention in guided:
        listen(attention)
    try:
        yield looks
    finally:
        for attention in guided:
            del attention.queries_keys


def attention_loss(looks: QueriesKeys, target: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the guided heads' attention against the weights of :class:`TokenMatches`, for both orders.

    Returns the loss and the share of the seen tokens whose largest attention weight is on the true token. Tokens
    without a match are left out.
    """
    if not looks:
        return target.new_zeros(()), target.new_zeros(())
    half = len(target) // 2
    other = [torch.cat([x[half:], x[:half]]) for x in (target, seen)]
    losses, hits = [], []
    for layer, (q, k) in enumerate(looks):
        goal, counts = (target, seen) if layer % 2 == 0 else other
        logits = (q.float() @ k.float().transpose(1, 2)) * q.shape[-1] ** -0.5
        losses.append(nn.functional.cross_entropy(logits[counts], goal[counts]) if counts.any() else logits.sum() * 0)
        hits.append((logits.argmax(-1) == goal.argmax(-1))[counts].float().mean())
    return torch.stack(losses).mean(), torch.stack(hits).mean().detach()


class MatchHead(nn.Module):
    """Projects encoder tokens to descriptors; used in training only."""

    def __init__(self, dim: int, descriptor: int = 64) -> None:
        super().__init__()
        self.project = nn.Linear(dim, descriptor)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, tokens_i: Tensor, tokens_j: Tensor, match: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE of view i's tokens (B, N, D) against all tokens of view j.

        Returns the loss and the share of seen tokens whose best match is the true one.
        """
        a = nn.functional.normalize(self.project(tokens_i.float()), dim=-1)
        b = nn.functional.normalize(self.project(tokens_j.float()), dim=-1)
        logits = a @ b.transpose(1, 2) * self.log_scale.clamp(max=4.6).exp()
        loss = nn.functional.cross_entropy(logits[seen], match[seen]) if seen.any() else logits.sum() * 0
        hit = (logits.argmax(-1) == match)[seen].float().mean() if seen.any() else logits.new_zeros(())
        return loss, hit.detach()
