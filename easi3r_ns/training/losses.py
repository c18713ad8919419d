"""Training losses: DUSt3R's confidence-weighted regression, and contrastive matching of encoder tokens (MASt3R)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .data import PairBatch, look_up, move


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


def confidence_loss_naive(predicted, confidence, truth, alpha: float) -> float:
    """The same from the definition, one pair and one pixel at a time (slow; for tests)."""
    total = 0.0
    for b in range(len(predicted[0])):
        norms = []
        for views in (predicted, truth):
            distances = [float(p.norm()) for view in views for p in view[b].reshape(-1, 3)]
            norms.append(sum(distances) / len(distances))
        for v in range(2):
            points = predicted[v][b].reshape(-1, 3), truth[v][b].reshape(-1, 3)
            pixels = zip(*points, confidence[v][b].flatten(), strict=True)
            terms = [
                float(c) * float((p / norms[0] - t / norms[1]).norm()) - alpha * float(torch.log(c))
                for p, t, c in pixels
            ]
            total += sum(terms) / len(terms) / len(predicted[0])
    return total


def token_matches(batch: PairBatch, patch: int) -> tuple[Tensor, Tensor]:
    """For every token of view i: (B, N) the token of view j that sees its centre, and (B, N) bool whether one does."""
    height, width = batch.points.shape[2:4]
    centres = batch.points[0][:, patch // 2 :: patch, patch // 2 :: patch]
    from_i = move(torch.linalg.inv(batch.T_i_j), centres).flatten(1, 2)
    pixel, seen = look_up(from_i, batch.points[1][..., 2], batch.focal[1])
    row, column = pixel // width // patch, pixel % width // patch
    return row * (width // patch) + column, seen


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
