"""Frames of one problem, padded to the same number of pointmaps and flow targets, for :mod:`.batched`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..problem import LEAST_WEIGHT, Problem
from .observations import FrameObservations
from .unknowns import CAMERA, PAIR, Numbering

Cells = list[tuple[torch.Tensor, torch.Tensor]]
"""Blocks of a matrix: per block (k, a) rows and (k, b) columns."""


@dataclass(frozen=True)
class FrameBatch:
    """B consecutive frames with up to n pointmaps, m flow targets, P pixels; tensors on the device.

    Local unknowns of a frame, L = 7 n + 2 + 7 m: a similarity (7) for each pointmap, the log focal length, the offset
    of the depth prior; then a relative motion (6) for each flow target, and their log focal lengths.
    """

    start: int
    stop: int
    """Its frames are start..stop - 1."""
    pairs: torch.Tensor
    """(B, n) pairs of the pointmaps."""
    references: torch.Tensor
    """(B, n) the reference frames of these pairs."""
    points: torch.Tensor
    """(B n, 3, P) float32 points in the cameras of the reference frames."""
    weight: torch.Tensor
    """(B, n, P) float32 weight of each residual's length; 0 where padded, or without a finite point."""
    centred: torch.Tensor
    """(B, 2, P) float32 pixels from the principal point."""
    targets: torch.Tensor
    """(B, m) target frames of the flow."""
    landing: torch.Tensor
    """(B, m, 2, P) float32 where the flow leads, in pixels from the target's principal point."""
    used: torch.Tensor
    """(B, m, 1, P) bool; False where padded."""
    sets: tuple[torch.Tensor, ...]
    """Per set of flow observations (B, m, 1, 1) float32, 1 for its targets, else 0."""
    numbers: torch.Tensor
    """(B, C) numbers of the unknowns that each frame depends on; 0, of the first camera, where padded."""
    counts: tuple[int, ...]
    """How many of these are not padded."""
    cells: torch.Tensor
    """Positions in the flattened (B, L, C) derivative of the local by the global unknowns, one further for what is left
    out: of the (B, n, 7, 7) adjoints by the pairs, their (B, n, 7, 6) part by the reference cameras, and the (B, m, 6,
    6) adjoints by the frame's camera."""
    constant: torch.Tensor
    """(B L C + 1,) float64 the same matrix without these."""
    slot_cells: torch.Tensor
    """(n 8 9,) positions of the equations and gradient of single pointmaps, over (similarity, log focal), in the
    flattened (L, L + 1) equations of a frame without the unknowns of flow targets."""
    all_cells: torch.Tensor
    """(n 8 9 + m 8 9,) the same in the equations with them, and those of flow targets, over (motion, log focal of the
    frame, that of the target)."""
    products: torch.Tensor
    """(36, 64) see :func:`_products_to_equations`."""

    @property
    def size(self) -> tuple[int, int, int]:
        """B, n and m."""
        frames, pointmaps = self.pairs.shape
        return frames, pointmaps, self.targets.shape[1]

    @property
    def local(self) -> int:
        """L."""
        return PAIR * (self.pairs.shape[1] + self.targets.shape[1]) + 2

    @property
    def frames(self) -> slice:
        """Its frames."""
        return slice(self.start, self.stop)


def make_batch(problem: Problem, observed: Sequence[FrameObservations], numbering: Numbering) -> FrameBatch:
    """Lay out consecutive frames."""
    device = problem.points.device
    n, m = max(len(o.rows) for o in observed), max(len(o.targets) for o in observed)
    frames = slice(observed[0].frame, observed[-1].frame + 1)
    rows, pad = _padded([o.rows for o in observed], n)
    on_device, real = rows.to(device), ~pad.to(device)
    confidence = problem.confidence[on_device]
    weight = torch.where((confidence > 0) & real.unsqueeze(-1), problem.weight[on_device] + LEAST_WEIGHT, 0.0)
    landing, used, sets = _flow(problem, observed, m)
    targets = _padded([o.targets for o in observed], m)[0].to(device)
    principal = problem.principal_point
    numbers, counts, cells, constant = _derivative_layout(observed, numbering, n, m)
    return FrameBatch(
        start=frames.start,
        stop=frames.stop,
        pairs=_padded([o.pairs for o in observed], n)[0].to(device),
        references=_padded([o.references for o in observed], n)[0].to(device),
        points=problem.points[on_device.flatten()],
        weight=weight,
        centred=problem.sample.xy - principal[frames].unsqueeze(-1),
        targets=targets,
        landing=landing - principal[targets].unsqueeze(-1),
        used=used.unsqueeze(2),
        sets=sets,
        numbers=numbers.to(device),
        counts=counts,
        cells=cells.to(device),
        constant=constant.to(device),
        slot_cells=_slot_cells(n, 0).to(device),
        all_cells=_slot_cells(n, m).to(device),
        products=_products_to_equations().to(device),
    )


def _padded(lists: Sequence[torch.Tensor], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, width) numbers, 0 where padded, and whether they are; on the CPU."""
    out, pad = torch.zeros(len(lists), width, dtype=torch.int64), torch.ones(len(lists), width, dtype=torch.bool)
    for row, values in enumerate(lists):
        out[row, : len(values)], pad[row, : len(values)] = values, False
    return out, pad


def _flow(
    problem: Problem, observed: Sequence[FrameObservations], m: int
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """(B, m, 2, P) where the flow leads, (B, m, P) bool and the sets of a batch."""
    device, pixels = problem.points.device, problem.points.shape[-1]
    landing = problem.points.new_zeros(len(observed), m, 2, pixels)
    used = torch.zeros(len(observed), m, pixels, dtype=torch.bool, device=device)
    sets = []
    for number, flow in enumerate(problem.flows):
        frame, place, row = list[int](), list[int](), list[int]()
        member = torch.zeros(len(observed), m, 1, 1)
        for b, o in enumerate(observed):
            before = sum(len(rows) for rows in o.flow_rows[:number])
            own = o.flow_rows[number]
            frame += [b] * len(own)
            place += range(before, before + len(own))
            row += own.tolist()
            member[b, before : before + len(own)] = 1.0
        at = tuple(torch.tensor(x, dtype=torch.int64).to(device) for x in (frame, place))
        rows = torch.tensor(row, dtype=torch.int64).to(device)
        landing[at], used[at] = flow.landing[rows], flow.used[rows]
        sets.append(member.to(device))
    return landing, used, tuple(sets)


def _derivative_layout(
    observed: Sequence[FrameObservations], numbering: Numbering, n: int, m: int
) -> tuple[torch.Tensor, tuple[int, ...], torch.Tensor, torch.Tensor]:
    """``numbers``, ``counts``, ``cells`` and ``constant`` of a :class:`FrameBatch`, on the CPU.

    A pointmap moves against its frame as its pair and the pair's reference camera do, less the frame's own camera; for
    a pair whose reference is the frame itself the two cancel. A flow target moves as the frame's camera does, less
    its own.
    """
    local = PAIR * n + 2 + PAIR * m
    blocks = [_blocks(o, numbering, n, m) for o in observed]
    columns = [torch.cat([c.flatten() for _, c in own]).unique() for own in blocks]
    columns = [c[c >= CAMERA] for c in columns]
    width = max(len(c) for c in columns)
    size = len(observed) * local * width
    constant = torch.zeros(size + 1, dtype=torch.float64)
    parts = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
    for b, (own, known) in enumerate(zip(blocks, columns, strict=True)):
        places = [_cells(rows, cols, known, (b * local, width, size)) for rows, cols in own]
        for part, place, count in zip(parts, places[:3], (n, n, m), strict=True):
            spare = torch.full((count - len(place), *place.shape[1:]), size)
            part.append(torch.cat([place, spare]))
        for place in places[3:5]:
            constant[place.diagonal(dim1=1, dim2=2)] -= 1.0
        if len(places) > 5:
            constant[places[5]] += 1.0
    constant[-1] = 0.0
    cells = torch.cat([torch.stack(part).flatten() for part in parts])
    return _padded(columns, width)[0], tuple(len(c) for c in columns), cells, constant


def _blocks(observed: FrameObservations, numbering: Numbering, n: int, m: int) -> Cells:
    """Blocks of one frame's derivative: of pairs, reference cameras, the frame's camera by the flow targets; then the
    negative of the frame's camera and of the targets' cameras; then focal lengths, if they are solved for."""
    frame, targets = torch.tensor([observed.frame]), observed.targets
    similarity = torch.arange(PAIR * n).view(n, PAIR)[: len(observed.rows)]
    focal, first = PAIR * n, PAIR * n + 2
    motion = first + torch.arange(CAMERA * m).view(m, CAMERA)[: len(targets)]
    camera = numbering.camera(frame)
    blocks = [(similarity, numbering.pair(observed.pairs)), (similarity, numbering.camera(observed.references))]
    blocks += [(motion, camera.expand(len(targets), -1))]
    blocks += [(similarity[:, :CAMERA], camera.expand(len(similarity), -1)), (motion, numbering.camera(targets))]
    if numbering.focals:
        slots = torch.cat([torch.tensor([focal]), first + CAMERA * m + torch.arange(len(targets))])
        blocks.append((slots[:, None], numbering.focal(torch.cat([frame, targets]))[:, None]))
    return blocks


def _cells(rows: torch.Tensor, columns: torch.Tensor, known: torch.Tensor, place: tuple[int, int, int]) -> torch.Tensor:
    """(k, a, b) positions of a block in the flattened matrices; those of the first camera lead to the last cell.

    ``place``: the first row of the frame, the count of columns, and the number of the last cell.
    """
    first, width, last = place
    column = torch.searchsorted(known, columns.contiguous())
    cell = (first + rows)[:, :, None] * width + column[:, None, :]
    return torch.where((columns >= CAMERA)[:, None, :], cell, last)


def _slot_cells(n: int, m: int) -> torch.Tensor:
    """``slot_cells`` (m = 0) and ``all_cells`` of a :class:`FrameBatch`."""
    local, focal, first = PAIR * (n + m) + 2, PAIR * n, PAIR * n + 2
    similarity = torch.arange(PAIR * n).view(n, PAIR)
    motion = first + torch.arange(CAMERA * m).view(m, CAMERA)
    own = (
        [similarity, torch.full((n, 1), focal)],
        [motion, torch.full((m, 1), focal), first + CAMERA * m + torch.arange(m)[:, None]],
    )
    cells = []
    for parts in own:
        rows = torch.cat(parts, dim=1)
        columns = torch.cat([rows, torch.full((len(rows), 1), local)], dim=1)
        cells.append((rows[:, :, None] * (local + 1) + columns[:, None, :]).flatten())
    return torch.cat(cells)


def _products_to_equations() -> torch.Tensor:
    """(36, 64) from products of six fields, summed over pixels, to J'J over (similarity, log focal length).

    The fields are 1, the three coordinates of a pair's point, and the two of the derivative of the residual by the log
    focal length that are not 0; the derivative J of the residual is linear in them.
    """
    J = torch.zeros(8, 3, 6)  # by unknown, axis and field
    for k in range(3):
        J[k, k, 0] = J[6, k, 1 + k] = 1.0
    for turn, (a, b) in enumerate(((1, 2), (2, 0), (0, 1))):
        J[3 + turn, b, 1 + a], J[3 + turn, a, 1 + b] = 1.0, -1.0
    J[7, 0, 4] = J[7, 1, 5] = 1.0
    return torch.einsum("iaf,jag->fgij", J, J).reshape(36, 64)
