"""Masks that are kept come back as they were."""

from __future__ import annotations

import numpy as np
import pytest

from easi3r_ns.core.types import DynamicMasks
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.motion.packing import join_masks, pack_masks, unpack_masks
from easi3r_ns.storage.cache import StageCache


def masks(frames: int, source: str = "geometry", maps: tuple[str, ...] = ("mean", "map_of_maps")) -> DynamicMasks:
    rng = np.random.default_rng(frames)
    score = rng.random((frames, 3, 4)).astype(np.float32)
    return DynamicMasks(
        masks=rng.random((frames, 24, 32)) < 0.3,
        score=score,
        threshold=0.1 + 0.2,
        source=source,
        maps={name: score**k for k, name in enumerate(maps)} or None,
    )


def assert_equal(one: DynamicMasks, other: DynamicMasks) -> None:
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_equal(one.threshold, other.threshold)
    assert one.source == other.source and (one.maps or {}).keys() == (other.maps or {}).keys()
    for name, values in (one.maps or {}).items():
        np.testing.assert_array_equal(values, other.maps[name])


@pytest.mark.parametrize("dynamic", [masks(5), masks(2, "attention", ()), static_masks(3, 24, 32, 8)])
def test_masks_come_back_from_a_file_as_they_were(tmp_path, dynamic):
    cache = StageCache(tmp_path)
    cache.put("masks", "key", pack_masks(dynamic))
    again = unpack_masks(cache.get("masks", "key"))
    assert_equal(again, dynamic)
    assert again.masks.dtype == bool and again.score.dtype == np.float32


def test_clips_are_joined_frame_after_frame():
    first, second = masks(4), masks(2)
    joined = join_masks([first, second])
    for part, rows in ((first, slice(0, 4)), (second, slice(4, 6))):
        np.testing.assert_array_equal(joined.masks[rows], part.masks)
        np.testing.assert_array_equal(joined.score[rows], part.score)
        np.testing.assert_array_equal(joined.maps["map_of_maps"][rows], part.maps["map_of_maps"])
    assert np.isnan(joined.threshold) and joined.source == "geometry"
    assert_equal(join_masks([first]), first)
    assert join_masks([masks(2, maps=()), masks(3, maps=())]).maps is None
