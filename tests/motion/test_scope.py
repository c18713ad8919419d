"""``--mask-scope ever``: what rests before or after it moves is masked, and nothing else is."""

from __future__ import annotations

import numpy as np

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.evaluate.masks import jaccard
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.scope import at_all_times
from tests.motion.test_objects import film

GOES = range(8, 16)
"""Frames of 24 in which the square goes; it stands before and after, which in the picture is against the pan."""


def followed(images: np.ndarray, masks: np.ndarray, clips: list[range] | None = None) -> np.ndarray:
    found = at_all_times(images, masks, clips or [range(len(masks))], DISFlow(), RunLog())
    assert found[masks].all()
    return found


def stop_and_go() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, where the square is, and the masks: where it is while it goes."""
    where = [30 + 4 * min(max(f - GOES.start, 0), len(GOES)) - f for f in range(24)]
    images, truth = film([[(x, 20, 28, 26) for x in where]])
    masks = truth > 0
    masks[: GOES.start] = masks[GOES.stop :] = False
    return images, truth > 0, masks


def test_what_stands_before_and_after_it_goes_is_masked() -> None:
    images, truth, masks = stop_and_go()
    found = followed(images, masks)
    assert jaccard(masks, truth).mean() < 0.4
    assert jaccard(found, truth).min() > 0.75
    assert (found & ~truth).mean() < 0.01
    np.testing.assert_array_equal(found, followed(images, masks))


def test_a_body_stays_masked_while_only_the_head_turns() -> None:
    images, truth, masks = stop_and_go()
    for f in range(GOES.stop, 24):
        masks[f] = truth[f] & (np.arange(truth.shape[1]) < 28)[:, None]
    found = followed(images, masks)
    assert jaccard(found[GOES.stop :], truth[GOES.stop :]).min() > 0.75


def test_nothing_is_followed_across_a_cut_or_into_another_clip() -> None:
    images, _, masks = stop_and_go()
    other, _ = film([[(200, 0, 1, 1)] * 8], world=7)
    cut, marks = np.concatenate([images[8:16], other]), np.concatenate([masks[8:16], masks[:8]])
    np.testing.assert_array_equal(followed(cut, marks), marks)
    clips = [range(GOES.stop), range(GOES.stop, 24)]
    np.testing.assert_array_equal(followed(images, masks, clips)[GOES.stop :], masks[GOES.stop :])


def test_what_is_hidden_and_what_is_marked_by_mistake_leaves_no_mark() -> None:
    path = [(20 + 3 * f, 20, 24, 22) if f < 12 else None for f in range(20)]
    images, truth = film([path])
    np.testing.assert_array_equal(followed(images, truth > 0), truth > 0)
    images, stands = film([[(80 - f, 20, 24, 22) for f in range(20)]])
    mistake = stands > 0
    mistake[:8] = mistake[11:] = False
    np.testing.assert_array_equal(followed(images, mistake), mistake)
