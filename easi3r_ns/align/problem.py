"""The constants of one alignment: sampled pointmaps and flow of every pair, checked and laid out for the solvers.

An *observation* is one pointmap of one pair: row e of the stacked tensors is pair e's reference view, row E + e its
other view. Coordinates come before pixels, (2E, 3, P), which keeps every sum over pixels contiguous in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core.errors import AlignmentError
from ..core.flow import FOLLOWED
from ..core.runlog import RunLog
from ..core.sampling import inside_image
from ..core.types import PairFlow, PairPredictions

LARGEST_COORDINATE = 1e6
"""Larger coordinates are an overflow of the network and count as not finite."""
FEWEST_POINTS = 16
"""A pointmap with fewer valid samples is left out."""
CHECKED_AT_ONCE = 64
"""Pointmaps per block of a check or a look-up: bounds its memory."""
FLATTEST = 1e-10
"""Second eigenvalue of a pointmap's covariance, relative to its mean square, below which it is a line or a point."""
LEAST_WEIGHT = 1e-6
"""Added to the weight of every residual where depths are solved for: a pixel about which no pair is confident (log
confidence 0) keeps a defined depth."""


@dataclass(frozen=True)
class PixelSample:
    """The P pixels that take part, the same ones in every frame."""

    index: torch.Tensor
    """(P,) int64 row-major pixel numbers, increasing."""
    xy: torch.Tensor
    """(2, P) float32 pixel coordinates, integer centres, y divided by ``aspect``: one focal length fits both axes."""
    size: tuple[int, int]
    """(H, W) of the network's image."""
    aspect: float = 1.0
    """Vertical over horizontal focal length in network pixels."""

    @property
    def complete(self) -> bool:
        """Whether every pixel takes part."""
        return len(self.index) == self.size[0] * self.size[1]


@dataclass(frozen=True)
class FlowObservations:
    """Sampled optical flow of D ordered pairs source -> target; each row is one direction."""

    source: torch.Tensor
    """(D,) int64 frame whose pixels move."""
    target: torch.Tensor
    """(D,) int64 frame that they move to."""
    landing: torch.Tensor
    """(D, 2, P) float32 pixel plus flow: where the flow takes each sampled pixel, in coordinates as ``sample.xy``."""
    used: torch.Tensor
    """(D, P) bool: static, finite and (where asked for) consistent pixels."""
    weight: float = 1.0
    """Factor of this set; 2 where one set represents both directions of a symmetric graph."""


@dataclass(frozen=True)
class Problem:
    """Constants of one alignment of F frames and E pairs; units are those of the network."""

    edges: torch.Tensor
    """(E, 2) int64 pairs (i, j) that take part."""
    kept: torch.Tensor
    """(E,) int64 rows of the pair graph that take part."""
    num_frames: int
    """F."""
    sample: PixelSample
    points: torch.Tensor
    """(2E, 3, P) float32 points, all in the camera of their pair's reference view."""
    confidence: torch.Tensor
    """(2E, P) float32 >= 0; 0 where the network gave no finite answer."""
    principal_point: torch.Tensor
    """(F, 2) float32 network pixels, y divided by ``sample.aspect``."""
    flows: tuple[FlowObservations, ...] = ()
    dropped: tuple[tuple[int, int], ...] = ()
    """Degenerate pairs that were left out."""

    def to(self, device: torch.device | str) -> Problem:
        """The same problem on another device."""
        sample = replace(self.sample, index=self.sample.index.to(device), xy=self.sample.xy.to(device))
        names = ("source", "target", "landing", "used")
        flows = tuple(replace(f, **{n: getattr(f, n).to(device) for n in names}) for f in self.flows)
        own = {n: getattr(self, n).to(device) for n in ("edges", "points", "confidence", "principal_point")}
        return replace(self, sample=sample, flows=flows, **own)

    def columns(self, pixels: torch.Tensor) -> Problem:
        """The same problem with some of its pixels: ``pixels`` (n,) int64 positions in the sample, increasing."""
        if len(pixels) == len(self.sample.index):
            return self
        sample = replace(self.sample, index=self.sample.index[pixels], xy=self.sample.xy[:, pixels].contiguous())
        flows = tuple(replace(f, landing=f.landing[..., pixels], used=f.used[:, pixels]) for f in self.flows)
        points, confidence = self.points[..., pixels], self.confidence[:, pixels]
        return replace(self, sample=sample, flows=flows, points=points, confidence=confidence)

    @property
    def frame(self) -> torch.Tensor:
        """(2E,) frame that each observation looks at."""
        return torch.cat([self.edges[:, 0], self.edges[:, 1]])

    @property
    def pair(self) -> torch.Tensor:
        """(2E,) pair that each observation belongs to."""
        return torch.arange(len(self.edges), device=self.edges.device).repeat(2)

    @cached_property
    def weight(self) -> torch.Tensor:
        """(2E, P) weight of each residual: log confidence, 0 for confidences of at most 1."""
        return self.confidence.clamp_min(1.0).log_()


def sample_pixels(height: int, width: int, budget: int, seed: int = 0, aspect: float = 1.0) -> PixelSample:
    """At most ``budget`` pixels (0: all), one per cell of a regular grid, at a random place inside the cell.

    A regular sample would always hit the same place inside the network's square patches. ``seed`` fixes the places;
    ``aspect``: vertical over horizontal focal length in network pixels.
    """
    if budget == 0 or height * width <= budget:
        rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    else:
        stride = int(np.ceil(np.sqrt(height * width / budget)))
        rng = np.random.default_rng(seed)
        row_edges = np.linspace(0, height, max(1, height // stride) + 1).astype(int)
        col_edges = np.linspace(0, width, max(1, width // stride) + 1).astype(int)
        shape = (len(row_edges) - 1, len(col_edges) - 1)
        rows = row_edges[:-1, None] + (rng.random(shape) * np.diff(row_edges)[:, None]).astype(int)
        cols = col_edges[None, :-1] + (rng.random(shape) * np.diff(col_edges)[None, :]).astype(int)
    index = np.sort((rows * width + cols).ravel())
    xy = np.stack([index % width, index // width / aspect]).astype(np.float32)
    return PixelSample(torch.from_numpy(index), torch.from_numpy(xy), (height, width), aspect)


def thinned(sample: PixelSample, budget: int) -> torch.Tensor:
    """(n,) int64 positions in the sample, increasing: about ``budget`` of its pixels (0: all), one per grid cell."""
    count, (height, width) = len(sample.index), sample.size
    if budget == 0 or count <= budget:
        return torch.arange(count, device=sample.index.device)
    stride = float(np.sqrt(height * width / budget))
    index = sample.index.cpu().numpy()
    cell = (index // width / stride).astype(int) * width + (index % width / stride).astype(int)
    order = np.random.default_rng(0).permutation(count)
    _, first = np.unique(cell[order], return_index=True)
    return torch.from_numpy(np.sort(order[first])).to(sample.index.device)


def build_problem(
    predictions: PairPredictions, sample: PixelSample, principal_point: np.ndarray, log: RunLog
) -> Problem:
    """Sample and check the predictions. ``principal_point``: (2,) or (F, 2) network pixels, integer pixel centres.

    Points that are not finite get confidence 0, pairs with a flat or empty pointmap are left out; both with a warning.
    Raises :class:`AlignmentError` when the usable pairs do not connect all frames.
    """
    num_frames = predictions.graph.num_frames
    edges = torch.from_numpy(np.asarray(predictions.graph.edges, dtype=np.int64))
    points = torch.cat([_sampled(predictions.points_i, sample), _sampled(predictions.points_j, sample)])
    points = points.transpose(1, 2).contiguous()
    confidence = torch.cat([_sampled(predictions.conf_i, sample), _sampled(predictions.conf_j, sample)])
    valid = torch.isfinite(confidence) & (confidence > 0) & (points.abs() < LARGEST_COORDINATE).all(dim=1)
    if not bool(valid.all()):
        log.warn(f"{100 * (1 - valid.float().mean()):.2g} % of the predicted points are not finite and are ignored")
        points.masked_fill_(~valid[:, None], 0.0)
        confidence.masked_fill_(~valid, 0.0)
    usable = _usable_pairs(points, valid)
    dropped = tuple((int(i), int(j)) for i, j in edges[~usable].tolist())
    if dropped:
        log.warn(f"pointmaps of {len(dropped)} of {len(edges)} pairs are flat or empty and are left out")
    _require_connected(edges[usable].numpy(), num_frames, bool(dropped))
    both = usable.repeat(2)
    return Problem(
        edges=edges[usable],
        kept=torch.nonzero(usable)[:, 0],
        num_frames=num_frames,
        sample=sample,
        points=points[both] if dropped else points,
        confidence=confidence[both] if dropped else confidence,
        principal_point=_per_frame(principal_point, num_frames) / torch.tensor([1.0, sample.aspect]),
        dropped=dropped,
    )


def flow_observations(
    problem: Problem, flow: PairFlow, dynamic_masks: np.ndarray | None, check: bool, log: RunLog | None = None
) -> FlowObservations:
    """Flow of the problem's pairs at the sampled pixels.

    The graph is symmetric, so its ordered pairs hold both directions already: the second half of the reference
    implementation's sum repeats the first, and one set of weight 2 represents both.

    ``dynamic_masks``: (F, H, W) bool, True where something moves: such pixels are not used; ``check``: nor are those
    whose forward and backward flow disagree, nor any of a pair that flow cannot follow, which
    ``log`` counts.
    """
    rows = problem.kept
    sample, source = problem.sample, problem.edges[:, 0]
    sampled = _sampled_rows(flow.flow.flatten(2), rows, sample).float()
    used = torch.isfinite(sampled).all(dim=1)
    if dynamic_masks is not None:
        static = ~torch.from_numpy(np.asarray(dynamic_masks, dtype=bool)).flatten(1)[:, sample.index]
        used &= static[source]
    sampled[:, 1] /= sample.aspect
    landing = sampled.nan_to_num_(0.0, 0.0, 0.0) + sample.xy
    if check:
        agrees = _sampled_rows(flow.consistent.flatten(1), rows, sample)
        followed = _followed(landing, used, agrees, sample)
        used &= agrees & followed.unsqueeze(1)
        if log is not None and not bool(followed.all()):
            log.info(
                f"optical flow cannot follow {int((~followed).sum())} of {len(followed)} ordered pairs (there and back "
                f"disagree in more than {100 * (1 - FOLLOWED):.0f} % of what stays in view): it is left out there"
            )
    return FlowObservations(source, problem.edges[:, 1], landing, used, weight=2.0)


def _followed(landing: torch.Tensor, static: torch.Tensor, agrees: torch.Tensor, sample: PixelSample) -> torch.Tensor:
    """(D,) bool: flow there and back agrees in at least :data:`FOLLOWED` of the pixels that stay in view.

    These are the ``static`` (D, P) ones whose ``landing`` (D, 2, P) lies inside the other picture; ``agrees``: (D, P).

    Where more disagree, those that agree do so by chance as often as not, and would be weighed in as if measured.
    """
    height, width = sample.size
    stretch = torch.tensor([1.0, sample.aspect])
    staying = static & inside_image(landing.movedim(1, -1) * stretch, height, width)
    count = staying.sum(dim=1)
    share = (staying & agrees).sum(dim=1) / count.clamp_min(1)
    followed: torch.Tensor = (share >= FOLLOWED) & (count > 0)
    return followed


def _sampled_rows(values: torch.Tensor, rows: torch.Tensor, sample: PixelSample) -> torch.Tensor:
    """(E, ..., H * W), (D,) -> (D, ..., P), in blocks: ``values`` may be larger than the memory."""
    return torch.cat([values[block][..., sample.index] for block in rows.split(CHECKED_AT_ONCE)])


def _sampled(values: torch.Tensor, sample: PixelSample) -> torch.Tensor:
    """(E, H, W, ...) -> (E, P, ...) float32 on the CPU."""
    return values.flatten(1, 2)[:, sample.index.to(values.device)].float().cpu()


def _usable_pairs(points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(2E, 3, P), (2E, P) -> (E,) bool: both pointmaps of a pair have enough points, which span at least a plane."""
    blocks = zip(points.split(CHECKED_AT_ONCE), valid.split(CHECKED_AT_ONCE))
    return torch.cat([_spans_a_plane(*block) for block in blocks]).view(2, -1).all(dim=0)


def _spans_a_plane(points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(N, 3, P) points, (N, P) bool valid -> (N,) bool."""
    weight = valid.float().unsqueeze(1)
    count = weight.sum(dim=-1).clamp_min(1.0)
    centred = (points - (points * weight).sum(dim=-1, keepdim=True) / count.unsqueeze(-1)) * weight
    covariance = centred @ centred.transpose(1, 2) / count.unsqueeze(-1)
    spread = torch.linalg.eigvalsh(covariance.double())[:, 1]
    mean_square = (points.double().square().sum(dim=1) * valid).sum(dim=1) / count[:, 0]
    spans: torch.Tensor = (valid.sum(dim=1) >= FEWEST_POINTS) & (spread > FLATTEST * mean_square)
    return spans


def _require_connected(edges: np.ndarray, num_frames: int, some_dropped: bool) -> None:
    matrix = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_frames, num_frames))
    count, label = connected_components(matrix, directed=False)
    if count == 1:
        return
    groups = sorted((np.nonzero(label == k)[0].tolist() for k in range(count)), key=len, reverse=True)
    shown = "; ".join(str(g[:8])[1:-1] + (" ..." if len(g) > 8 else "") for g in groups[:4])
    cause = "the network gave no usable pointmap for the pairs between them" if some_dropped else "no pair joins them"
    raise AlignmentError(
        f"the frames fall apart into {count} groups ({shown}): {cause}. "
        "Use a denser --graph, another part of the clip (--start, --end) or other weights"
    )


def _per_frame(principal_point: np.ndarray, num_frames: int) -> torch.Tensor:
    value = torch.as_tensor(np.asarray(principal_point), dtype=torch.float32)
    if value.shape not in ((2,), (num_frames, 2)) or not bool(torch.isfinite(value).all()):
        raise AlignmentError(f"principal_point {value.tolist()}: give (2,) or ({num_frames}, 2) finite network pixels")
    return value.expand(num_frames, 2).contiguous()
