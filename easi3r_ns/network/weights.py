"""Build the network that ``--weights NAME|PATH|HUB_REPO`` names and load its weights, as a whole or in two parts.

:mod:`.sources` finds the files and :mod:`.checkpoint` reads them.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import CheckpointError, shown
from ..core.runlog import RunLog
from ..core.score import ScoreFormula
from .checkpoint import check_names, normalise_names, open_tensors, read_config, read_json
from .config import DUSt3RConfig
from .model import ENCODER_PREFIXES, DUSt3R
from .sources import KNOWN, UNKNOWN_LICENCE, WeightsSource, is_non_commercial, resolve

__all__ = [
    "KNOWN",
    "Part",
    "WeightsInfo",
    "WeightsSource",
    "build_backbone",
    "describe",
    "load_backbone",
    "load_part",
    "load_state",
    "read_config",
    "release_part",
    "resolve",
]

MOST_FLOW_WEIGHT = 1e6
"""Greatest flow weight of a card; with more, nothing else would count."""
Part = Literal["encoder", "decoder"]
"""``encoder`` is what :meth:`DUSt3R.encode` uses, ``decoder`` all the rest: both decoders and heads."""


@dataclass(frozen=True)
class WeightsInfo:
    """Description of the weights of a run."""

    name: str
    """The value of ``--weights``."""
    source: WeightsSource
    licence: str
    non_commercial: bool
    sha256: str
    """SHA-256 of the weight file, in hexadecimal."""
    config: DUSt3RConfig
    num_parameters: int
    score: ScoreFormula = ScoreFormula()
    """Formula of the dynamic score: that of the card, else that of the paper."""
    graph: str | None = None
    """Pair graph that the card recommends; None: the card recommends none."""
    flow_weight: float | None = None
    """Weight of the alignment's flow term that the card recommends; None: the card recommends none."""

    def provenance(self) -> dict[str, Any]:
        """JSON-serialisable summary for the dataset."""
        return {
            "name": self.name,
            "hub_repo": self.source.hub_repo,
            "hub_revision": self.source.hub_revision,
            "file": self.source.path.name,
            "sha256": self.sha256,
            "licence": self.licence,
            "non_commercial": self.non_commercial,
            "num_parameters": self.num_parameters,
            "config": asdict(self.config),
            "dynamic_score": asdict(self.score),
        }


def build_backbone(spec: str, *, download: bool = True, log: RunLog | None = None) -> tuple[DUSt3R, WeightsInfo]:
    """Find the weights ``spec`` and build their network on the meta device, without memory for the weights.

    Names and shapes of the tensors and the hash of the file are checked. ``log`` gets a line about the licence, a
    warning when it forbids commercial use.

    Raises:
        CheckpointError: the weights are missing, unreadable or changed, or do not fit the network.
    """
    log = log or RunLog()
    source = resolve(spec, download=download, log=log)
    model, info = describe(source)
    if info.non_commercial:
        log.warn(f"weights {info.name} are non-commercial (licence: {info.licence}), and so is what is made with them")
    elif info.licence == UNKNOWN_LICENCE:
        log.info(f"weights {info.name}: licence unknown, see where you got them")
    else:
        log.info(f"weights {info.name}: licence {info.licence}")
    return model, info


def describe(source: WeightsSource) -> tuple[DUSt3R, WeightsInfo]:
    """The network of a source on the meta device and its description; hashes the file, but loads no weights.

    Raises:
        CheckpointError: as :func:`build_backbone`.
    """
    config = read_config(source)
    try:
        with torch.device("meta"):
            model = DUSt3R(config).eval().requires_grad_(False)
    except ValueError as error:
        raise CheckpointError(f"{source.config_path or source.path}: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    with open_tensors(source.path) as file:
        table, _ = normalise_names(file.names())
        check_names(file, table, wanted, str(source.path))
    card = read_json(source.card_path) if source.card_path.is_file() else {}
    sha256 = _sha256(source.path)
    if card.get("sha256", sha256) != sha256:
        raise CheckpointError(
            f"{source.path}: its SHA-256 is {sha256}, but {source.card_path.name} says {shown(card['sha256'])}; the "
            "file was changed or damaged: install or fetch it again"
        )
    licence = source.licence if source.licence != UNKNOWN_LICENCE else str(card.get("licence", UNKNOWN_LICENCE))
    info = WeightsInfo(
        name=source.name,
        source=source,
        licence=licence,
        non_commercial=is_non_commercial(licence),
        sha256=sha256,
        config=config,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        score=_score(card, source, config),
        graph=_graph(card, source),
        flow_weight=_flow_weight(card, source),
    )
    return model, info


def load_backbone(
    spec: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, log: RunLog | None = None
) -> tuple[DUSt3R, WeightsInfo]:
    """The whole network of ``spec`` with its weights loaded; ``dtype`` as in :func:`load_part`.

    Raises:
        CheckpointError: as :func:`build_backbone` and :func:`load_part`.
    """
    model, info = build_backbone(spec, log=log)
    for part in ("encoder", "decoder"):
        load_part(model, info.source, part, device=device, dtype=dtype)
    return model, info


def load_part(
    model: DUSt3R,
    source: WeightsSource,
    part: Part,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Load the weights of one part of ``model``; only these are read from the file.

    Float32 weights on the CPU stay memory-mapped: the file must exist as long as the model is used.

    Args:
        dtype: precision of the matrices of the transformer blocks, to which autocast would convert them in every call;
            all other weights stay in float32.

    Raises:
        CheckpointError: the file is damaged, weights are NaN or infinite, or tied weights differ.
    """
    for name, module in model.named_children():
        if _part_of(f"{name}.") != part:
            continue
        precision = torch.float32 if name.startswith("downstream_head") else dtype
        tensors = _read_tensors(source, prefix=f"{name}.")
        # Only matrices are converted: the other weights are small, and autocast computes norms in float32.
        converted = {
            key.removeprefix(f"{name}."): value.to(device, precision if value.ndim > 1 else torch.float32)
            for key, value in tensors.items()
        }
        module.load_state_dict(converted, strict=True, assign=True)
        module.requires_grad_(False)


def release_part(model: DUSt3R, part: Part) -> None:
    """Free the weights of one part (it moves to the meta device); :func:`load_part` loads them again."""
    for name, module in model.named_children():
        if _part_of(f"{name}.") == part:
            module.to("meta")
    gc.collect()
    if sys.platform == "linux":
        # glibc does not return freed blocks below 32 MB to the system, and transformer layers consist of such blocks.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def load_state(source: WeightsSource) -> dict[str, Tensor]:
    """All tensors of a source by their names in the network, in the file's precision; memory-mapped where possible.

    Raises:
        CheckpointError: as :func:`load_part`.
    """
    return _read_tensors(source, prefix="")


def _read_tensors(source: WeightsSource, prefix: str) -> dict[str, Tensor]:
    """Tensors whose names in the network start with ``prefix``; checks that all are finite and tied ones equal."""
    with open_tensors(source.path) as file:
        table, tied = normalise_names(file.names())
        tensors = {name: file.tensor(inside) for name, inside in table.items() if name.startswith(prefix)}
        differing = [
            f"{first} and {second}"
            for first, second in tied
            if second.startswith(prefix) and not torch.equal(file.tensor(first), file.tensor(second))
        ]
    if differing:
        raise CheckpointError(f"{source.path}: tied weights differ: {', '.join(differing)}; fetch the file again")
    if wrong := [name for name, value in tensors.items() if not value.is_floating_point()]:
        raise CheckpointError(f"{source.path}: {', '.join(wrong[:8])} hold no floating-point numbers; fetch it again")
    # The sum is finite exactly when every element is (weights are too small to overflow it), and needs no copy.
    broken = [name for name, value in tensors.items() if not torch.isfinite(value.sum(dtype=torch.float32))]
    if broken:
        raise CheckpointError(
            f"{source.path}: NaN or infinite weights in {', '.join(broken[:8])}; fetch the file again"
        )
    return tensors


def _part_of(name: str) -> Part:
    return "encoder" if name.startswith(ENCODER_PREFIXES) else "decoder"


def _graph(card: Mapping[str, Any], source: WeightsSource) -> str | None:
    graph = card.get("graph")
    if graph is not None and not isinstance(graph, str):
        raise CheckpointError(f"{source.card_path}: graph is {shown(graph)}, but must be the name of a pair graph")
    return graph


def _flow_weight(card: Mapping[str, Any], source: WeightsSource) -> float | None:
    weight = card.get("flow_weight")
    if weight is not None and not (type(weight) in (int, float) and 0 <= weight <= MOST_FLOW_WEIGHT):
        raise CheckpointError(
            f"{source.card_path}: flow_weight is {shown(weight)}, but must be a number from 0 to {MOST_FLOW_WEIGHT:g}"
        )
    return weight


def _score(card: Mapping[str, Any], source: WeightsSource, config: DUSt3RConfig) -> ScoreFormula:
    if "dynamic_score" not in card:
        return ScoreFormula()
    try:
        return ScoreFormula.from_card(card["dynamic_score"], config.dec_depth * config.dec_num_heads)
    except ValueError as error:
        raise CheckpointError(f"{source.card_path}: dynamic_score: {error}") from error


def _sha256(path: Path) -> str:
    """SHA-256 of a file; in the hub's cache it is the file's name, so that gigabytes need not be read."""
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()
