"""Clips that are measured on must show what moves, and choosing them must not change what a seed means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from easi3r_ns.training.scenes import ClipOptions, Showing, render_clip, showing_seeds, shows_motion

OPTIONS = ClipOptions(fps=4.0)


def clip_with(shares: list[list[float]]):
    """A clip in which mover k + 1 covers ``shares[k][f]`` of frame f."""
    clip = render_clip(1, 4, 20, 20, num_movers=0)
    ids = np.zeros((4, 400), dtype=np.int16)
    for f in range(4):
        begin = 0
        for k, share in enumerate(shares):
            end = begin + round(400 * share[f])
            ids[f, begin:end] = k + 1
            begin = end
    ids = ids.reshape(4, 20, 20)
    movers = tuple(range(1, len(shares) + 1))
    return replace(clip, object_id=ids, would_move=np.isin(ids, movers), mover_ids=movers)


def test_what_counts_as_showing():
    assert shows_motion(clip_with([[0.1, 0.1, 0.1, 0.1]]))
    assert not shows_motion(clip_with([[0.1, 0.1, 0.0, 0.1]])), "hidden in a quarter of the frames"
    assert shows_motion(clip_with([[0.1, 0.1, 0.0, 0.1]]), Showing(frames=0.7))
    assert not shows_motion(clip_with([[0.1] * 4, [0.1, 0.0, 0.0, 0.0]])), "the second mover is hardly ever seen"
    assert not shows_motion(clip_with([[0.5] * 4])), "hardly any world left"
    assert not shows_motion(render_clip(1, 2, 8, 8, num_movers=0)), "nothing moves at all"


def test_seeds_are_passed_over_but_never_changed():
    movers = lambda seed: 1 + seed % 3  # noqa: E731
    seeds = showing_seeds(3, 4, movers, first=40, options=OPTIONS)
    assert seeds == sorted(set(seeds)) and seeds[0] >= 40 and len(seeds) == 3
    assert showing_seeds(2, 4, movers, first=40, options=OPTIONS) == seeds[:2]
    assert showing_seeds(1, 4, movers, first=seeds[1], options=OPTIONS) == seeds[1:2]
    for seed in range(40, seeds[-1] + 1):
        shown = shows_motion(render_clip(seed, 4, 24, 32, movers(seed), options=OPTIONS))
        assert shown == (seed in seeds)
    strict = showing_seeds(1, 4, movers, first=40, options=OPTIONS, rule=Showing(share=0.1))
    assert shows_motion(render_clip(strict[0], 4, 24, 32, movers(strict[0]), options=OPTIONS), Showing(share=0.1))


def test_the_full_clip_shows_what_its_preview_promised():
    seed = showing_seeds(1, 4, lambda seed: 2, options=OPTIONS)[0]
    for frozen in (False, True):
        clip = render_clip(seed, 4, 96, 128, 2, frozen, options=OPTIONS)
        assert (clip.would_move.mean(axis=(1, 2)) > 0.015).mean() >= 0.75
