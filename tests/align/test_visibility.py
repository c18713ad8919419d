"""Which views see a frame, and the clean-up of contradicted points that is bounded by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from easi3r_ns.align import depth as depth_module
from easi3r_ns.align.depth import clean
from easi3r_ns.align.visibility import views_of_frames


def walk(num_frames: int, step: float = 0.5) -> dict[str, torch.Tensor]:
    """Cameras side by side before a bumpy wall 3 units away, each seeing 3 units of it."""
    rng = np.random.default_rng(0)
    height, width = 12, 16
    K = torch.tensor([[width, 0.0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1]])
    centre = torch.zeros(num_frames, 3)
    centre[:, 0] = step * torch.arange(num_frames)
    return {
        "depth": torch.from_numpy(rng.uniform(2.5, 3.5, (num_frames, height, width)).astype(np.float32)),
        "R": torch.eye(3).repeat(num_frames, 1, 1),
        "centre": centre,
        "K": K.repeat(num_frames, 1, 1),
    }


def test_in_a_short_clip_every_frame_sees_every_other():
    scene = walk(5)
    assert views_of_frames(**scene, most=4) == [[j for j in range(5) if j != i] for i in range(5)]


def test_in_a_long_clip_the_views_that_see_most_are_chosen():
    found = views_of_frames(**walk(40), most=6)
    for i, views in enumerate(found):
        assert len(views) == 6 and i not in views and views == sorted(views)
        assert max(abs(i - j) for j in views) <= (3 if 3 <= i < 37 else 6)
    assert views_of_frames(**walk(5, step=100.0), most=2) == [[1, 2], [0, 2], [1, 3], [2, 4], [2, 3]], "nearest in time"


def test_a_frame_without_depth_goes_with_its_neighbours():
    scene = walk(10)
    scene["depth"][4] = 0
    assert views_of_frames(**scene, most=2)[4] == [3, 5]


def test_far_views_change_nothing(monkeypatch):
    """Bounded or not, the clean-up is the same where the views left out see nothing."""
    scene = walk(40)
    confidence = torch.from_numpy(np.random.default_rng(1).uniform(1, 5, scene["depth"].shape).astype(np.float32))
    everything = clean(confidence, **scene)
    monkeypatch.setattr(depth_module, "CLEANING_VIEWS", 16)
    calls = []
    lower = depth_module._lower
    monkeypatch.setattr(depth_module, "_lower", lambda *args: calls.append(1) or lower(*args))
    torch.testing.assert_close(clean(confidence, **scene), everything)
    assert len(calls) < 40 * 17
    assert 0.05 < float((everything == 0).float().mean()) < 0.95


def test_too_few_views_would_show(monkeypatch):
    scene = walk(40)
    confidence = torch.from_numpy(np.random.default_rng(1).uniform(1, 5, scene["depth"].shape).astype(np.float32))
    everything = clean(confidence, **scene)
    monkeypatch.setattr(depth_module, "CLEANING_VIEWS", 2)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(clean(confidence, **scene), everything)
