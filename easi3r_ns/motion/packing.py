"""Motion masks as named tensors, the form in which finished stages are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..core.types import DynamicMasks, RefinedMasks
from ..storage.cache import Tensors

_FIRST, _CUT = "first", "over_cut"
_MAP = "map_"
"""Begins the names of the maps of the score."""


def pack_masks(dynamic: DynamicMasks) -> Tensors:
    """Everything that :func:`unpack_masks` needs to give equal masks."""
    return {
        "masks": torch.from_numpy(dynamic.masks),
        "score": torch.from_numpy(dynamic.score),
        "threshold": torch.tensor(dynamic.threshold, dtype=torch.float64),
        "source": torch.frombuffer(bytearray(dynamic.source.encode()), dtype=torch.uint8),
        **({} if dynamic.first is None else {_FIRST: torch.from_numpy(dynamic.first)}),
        **({} if dynamic.over_cut is None else {_CUT: torch.from_numpy(dynamic.over_cut)}),
        **{_MAP + name: torch.from_numpy(values) for name, values in (dynamic.maps or {}).items()},
    }


def unpack_masks(tensors: Tensors) -> DynamicMasks:
    """What :func:`pack_masks` was given; an empty set of maps comes back as None.

    Raises:
        KeyError: the tensors are not those of :func:`pack_masks`.
    """
    maps = {name.removeprefix(_MAP): values.numpy() for name, values in tensors.items() if name.startswith(_MAP)}
    return DynamicMasks(
        masks=tensors["masks"].numpy(),
        score=tensors["score"].numpy(),
        threshold=float(tensors["threshold"]),
        source=bytes(tensors["source"].numpy()).decode(),
        maps=maps or None,
        first=tensors[_FIRST].numpy() if _FIRST in tensors else None,
        over_cut=tensors[_CUT].numpy() if _CUT in tensors else None,
    )


def join_masks(clips: list[DynamicMasks]) -> DynamicMasks:
    """The masks of several clips, found one by one, as those of all their frames in a row.

    Each clip's score was cut at its own threshold. That of a single clip stays, several have none in common: NaN. The
    clips have the same source and maps.
    """
    first = clips[0]
    if len(clips) == 1:
        return first
    maps = first.maps and {name: np.concatenate([(clip.maps or {})[name] for clip in clips]) for name in first.maps}
    looks = [clip.first for clip in clips if clip.first is not None]
    scores = [clip.over_cut for clip in clips if clip.over_cut is not None]
    return DynamicMasks(
        masks=np.concatenate([clip.masks for clip in clips]),
        score=np.concatenate([clip.score for clip in clips]),
        threshold=float("nan"),
        source=first.source,
        maps=maps,
        first=np.concatenate(looks) if looks else None,
        refined=_join_refined(clips),
        over_cut=np.concatenate(scores) if len(scores) == len(clips) else None,
        named=_join_named([clip.named for clip in clips if clip.named], [len(clip.masks) for clip in clips]),
    )


def _join_refined(all_clips: list[DynamicMasks]) -> RefinedMasks | None:
    """The refined masks of several clips in a row; their ids are made different. A clip without any keeps its masks."""
    known = next((clip.refined for clip in all_clips if clip.refined is not None), None)
    if known is None:
        return None
    clips = [clip.refined or _not_refined(clip, known.facts) for clip in all_clips]
    objects, most = [], 0
    for clip in clips:
        if clip.objects is not None:
            objects.append(np.where(clip.objects > 0, clip.objects + np.uint16(most), 0).astype(np.uint16))
            most = max(most, int(objects[-1].max(initial=0)))
    facts = joined_facts([clip.facts for clip in clips], [len(clip.masks) for clip in clips])
    masks = np.concatenate([clip.masks for clip in clips])
    return RefinedMasks(masks, facts, np.concatenate(objects) if len(objects) == len(clips) else None)


def _not_refined(clip: DynamicMasks, facts: dict[str, Any]) -> RefinedMasks:
    """The masks of a clip of which the model was shown nothing; ``facts``: of a clip of which it was."""
    share = float(clip.masks.mean())
    objects = np.zeros(clip.masks.shape, np.uint16) if share == 0 else clip.objects
    nothing = {"own_share": share, "share": share, "objects": 0, "left": 0, "lost": []}
    return RefinedMasks(clip.masks, facts | nothing, objects)


def joined_facts(facts: list[dict[str, Any]], frames: list[int]) -> dict[str, Any]:
    """:attr:`~easi3r_ns.core.types.RefinedMasks.facts` of clips with so many frames, as those of all together."""
    weights = np.array(frames) / max(sum(frames), 1)
    shares = {name: float(weights @ [fact[name] for fact in facts]) for name in ("own_share", "share")}
    counts = {name: sum(fact[name] for fact in facts) for name in ("objects", "left")}
    return facts[0] | shares | counts | {"lost": [lost for fact in facts for lost in fact["lost"]]}


def _join_named(clips: list[dict[str, Any]], frames: list[int]) -> dict[str, Any] | None:
    """:attr:`~easi3r_ns.core.types.DynamicMasks.named` of clips with so many frames, as that of all together."""
    if len(clips) < len(frames):
        return None
    weights = np.array(frames) / max(sum(frames), 1)
    names = [
        same[0]
        | {"frames": sum(one["frames"] for one in same), "share": float(weights @ [one["share"] for one in same])}
        for same in zip(*(clip["names"] for clip in clips), strict=True)
    ]
    shares = {name: float(weights @ [clip[name] for clip in clips]) for name in ("added", "taken")}
    return clips[0] | shares | {"names": names}
