"""Sharp frames near evenly spaced times, repeated pictures, and where neither may decide."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import load_frames, near
from easi3r_ns.frames.cuts import Cut
from easi3r_ns.frames.scan import Scan, gradient_energy, relative, shows_the_same
from easi3r_ns.frames.select import NOTABLE, choose_frames, choose_scanned
from easi3r_ns.frames.video import Video
from easi3r_ns.storage.files import write_png
from tests.frames.test_frames import TINY, _write_video

SIZE = (96, 160)
FPS = 25.0


def wall(seed: int = 0) -> np.ndarray:
    """A (300, 900, 3) uint8 wall with texture of many scales."""
    rng, sum_ = np.random.default_rng(seed), np.zeros((300, 900, 3))
    for scale in (2, 4, 8, 16, 32):
        small = rng.normal(size=(300 // scale + 1, 900 // scale + 1, 3)).astype(np.float32)
        sum_ += scale**0.5 * cv2.resize(small, (900, 300), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(sum_, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def filmed(positions: list[float], blurred: set[int] = frozenset(), seed: int = 0, blur: float = 6.0) -> np.ndarray:
    """Frames of a camera that moves along the wall; a blurred one is the mean over a movement of ``blur`` pixels."""
    background, (height, width), frames = wall(seed), SIZE, []
    for number, x in enumerate(positions):
        offsets = np.linspace(-blur / 2, blur / 2, 13) if number in blurred else [0.0]
        shifted = [
            cv2.warpAffine(
                background.astype(np.float32), np.float32([[1, 0, -(x + o)], [0, 1, -40 - 0.3 * o]]), (width, height)
            )
            for o in offsets
        ]
        frames.append(np.rint(np.mean(shifted, axis=0)))
    return np.clip(frames, 0, 255).astype(np.uint8)


def load(data: Path, tmp_path: Path, log: RunLog | None = None, **select):
    return load_frames(data, tmp_path / "store", select=FrameConfig(**select), geometry=TINY, log=log or RunLog())


def clip_of(path: Path, frames: np.ndarray) -> Path:
    return _write_video(path, list(frames), options={"crf": "12"})


def steady(count: int) -> list[float]:
    return [4.0 * k for k in range(count)]


# Sharpness


def test_motion_blur_in_any_direction_lowers_the_energy():
    sharp = cv2.cvtColor(wall()[:200, :300], cv2.COLOR_RGB2GRAY)
    for kernel in (np.ones((1, 3)), np.ones((3, 1)), np.eye(3), np.eye(3)[::-1]):
        blurred = cv2.filter2D(sharp, -1, kernel / kernel.sum())
        assert gradient_energy(blurred) < gradient_energy(sharp) - 2 * NOTABLE


def test_content_alone_does_not_decide():
    """A camera that turns from texture to a plain wall: the energy falls all the time, by a half in half a step."""
    times, sharpness, select = np.arange(101) / FPS, np.linspace(10, 0, 101), FrameConfig(num_frames_target=11)
    assert choose_scanned(times, select, seen_of(sharpness)).used.tolist() == list(range(0, 101, 10))
    sharpness[[30, 50, 51, 70]] -= 1
    used = choose_scanned(times, select, seen_of(sharpness)).used
    assert used.tolist() == [0, 10, 20, 29, 40, 49, 60, 69, 80, 90, 100]


def test_the_chart_compares_with_the_frames_around():
    values = np.linspace(8, 3, 100)
    assert np.abs(relative(values, np.zeros(100, int), 6)[6:-6]).max() < 1e-9
    values[[20, 21]] -= 1
    assert (relative(values, np.zeros(100, int), 6) < -0.8).nonzero()[0].tolist() == [20, 21]


@pytest.mark.parametrize("count", [5, 7, 9])
def test_blurred_frames_are_avoided_within_half_a_step(tmp_path, count):
    rng = np.random.default_rng(count)
    evenly = np.rint(np.linspace(0, 60, count)).astype(int)
    blurred = {int(k) for k in np.flatnonzero(rng.random(61) < 0.4)} | set(evenly.tolist())
    blurred -= {int(k) for k in np.clip(evenly + 2, 0, 58)}
    clip = clip_of(tmp_path / "clip.mp4", filmed(steady(61), blurred))
    frames = load(clip, tmp_path, num_frames_target=count)
    even, step = np.linspace(0, 60 / FPS, count), 60 / FPS / (count - 1)
    assert len(frames) == count and not set(frames.indices.tolist()) & blurred
    assert np.abs(frames.times - even).max() <= step / 2 + 1e-6
    assert np.diff(frames.times).min() >= step / 2 - 1e-6
    plain = load(clip, tmp_path, num_frames_target=count, sharpest=False)
    np.testing.assert_allclose(plain.times, even, atol=0.021)
    assert set(plain.indices.tolist()) & blurred


def test_a_sharp_clip_keeps_its_evenly_spaced_frames(tmp_path):
    clip = clip_of(tmp_path / "clip.mp4", filmed(steady(60)))
    even = choose_frames(np.arange(60) / FPS, FrameConfig(num_frames_target=7))
    assert load(clip, tmp_path, num_frames_target=7).indices.tolist() == even.tolist()


def test_a_long_blur_is_left_by_the_nearest_sharp_frame(tmp_path):
    clip = clip_of(tmp_path / "clip.mp4", filmed(steady(61), set(range(27, 34))))
    assert load(clip, tmp_path, num_frames_target=5).indices.tolist() == [0, 15, 26, 45, 60]


def seen_of(sharpness: np.ndarray, run: np.ndarray | None = None, cuts: tuple[Cut, ...] = ()) -> Scan:
    count = len(sharpness)
    return Scan(np.arange(count), sharpness, np.arange(count) if run is None else run, cuts)


def test_no_choice_crosses_a_cut():
    """All frames before the cut are blurred, those after it are sharp."""
    times, sharpness = np.arange(61) / FPS, np.zeros(61)
    sharpness[28:32] = -2
    sharpness[32:] = 5
    whole = choose_scanned(times, FrameConfig(num_frames_target=5), seen_of(sharpness))
    assert whole.used.tolist() == [0, 15, 32, 45, 60]
    cut = choose_scanned(times, FrameConfig(num_frames_target=5), seen_of(sharpness, cuts=(Cut(31, 32),)))
    assert cut.used.tolist() == [0, 15, 27, 45, 60]


def test_no_choice_crosses_a_cut_in_a_clip(tmp_path):
    clip = clip_of(
        tmp_path / "clip.mp4", np.concatenate([filmed(steady(31), set(range(27, 31))), filmed(steady(30), seed=5)])
    )
    frames = load(clip, tmp_path, num_frames_target=5, on_cut="ignore")
    assert frames.indices.tolist() == [0, 15, 26, 45, 60]


def test_random_choices_keep_their_bounds():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(8, 80))
        times = np.cumsum(rng.choice([0.02, 0.04, 0.3], count))
        select = FrameConfig(num_frames_target=int(rng.integers(2, count)))
        sharpness = rng.normal(size=count)
        sharpness[rng.random(count) < 0.1] = np.nan
        used = choose_scanned(times, select, seen_of(sharpness)).used
        even = choose_frames(times, select)
        targets = np.linspace(times[0], times[-1], select.num_frames_target)
        step = targets[1] - targets[0]
        assert len(used) == len(even) and (np.diff(used) > 0).all()
        assert (np.abs(times[used] - targets) <= np.maximum(np.abs(times[even] - targets), step / 2 + 1e-9)).all()


def test_rates_take_sharp_frames_too(tmp_path):
    clip = clip_of(tmp_path / "clip.mp4", filmed(steady(61), {10, 20, 30}))
    frames = load(clip, tmp_path, fps=2.5)
    assert frames.indices.tolist() == [0, 9, 19, 29, 40, 50, 60]


# Repeated pictures


def test_a_camera_that_lies_still_is_not_sampled_twice(tmp_path):
    positions = [4.0 * k for k in range(20)] + [76.0] * 60 + [76.0 + 4 * k for k in range(1, 21)]
    noisy = filmed(positions).astype(float) + np.random.default_rng(0).normal(0, 4, (100, *SIZE, 3))
    clip, log = clip_of(tmp_path / "clip.mp4", np.clip(noisy, 0, 255).astype(np.uint8)), RunLog()
    frames = load(clip, tmp_path, log, num_frames_target=11)
    assert len(frames) == 11 and sum(19 <= k < 80 for k in frames.indices) == 1
    assert np.ptp(np.diff(np.array(positions)[frames.indices])) <= 8, "evenly spaced in what moves"
    assert any("repeats pictures" in warning for warning in log.warnings)
    again = RunLog()
    assert load(clip, tmp_path, again, num_frames_target=11).indices.tolist() == frames.indices.tolist()
    assert again.warnings == log.warnings


def test_frames_that_a_conversion_of_the_rate_repeats_are_left_out(tmp_path):
    """24 frames a second shown at 30: every fifth picture comes twice."""
    shown = np.repeat(np.arange(24), [2 if k % 4 == 3 else 1 for k in range(24)])
    clip = clip_of(tmp_path / "clip.mp4", filmed([4.0 * k for k in shown]))
    frames = load(clip, tmp_path, num_frames_target=50)
    assert shown[frames.indices].tolist() == list(range(24))
    assert load(clip, tmp_path, fps=25).indices.tolist() == frames.indices.tolist()
    assert len(load(clip, tmp_path, num_frames_target=0)) == len(shown) == 30


def test_a_small_thing_that_moves_is_no_repetition(tmp_path):
    images = filmed([50.0] * 40)
    for k, image in enumerate(images):
        image[40:48, 10 + 2 * k : 18 + 2 * k] = (255, 0, 0)
    log = RunLog()
    frames = load(clip_of(tmp_path / "clip.mp4", images), tmp_path, log, num_frames_target=8)
    assert frames.indices.tolist() == choose_frames(np.arange(40) / FPS, FrameConfig(num_frames_target=8)).tolist()
    assert not log.warnings


def test_a_clip_of_one_picture_stays_a_clip(tmp_path):
    log = RunLog()
    frames = load(clip_of(tmp_path / "clip.mp4", filmed([50.0] * 20)), tmp_path, log, num_frames_target=6)
    assert len(frames) == 6 and any("frozen" in warning for warning in log.warnings)


def test_flicker_is_a_repetition_and_movement_is_not():
    means = np.random.default_rng(0).uniform(0, 255, (6, 10)).astype(np.float32)
    assert shows_the_same(means, means + 9) and not shows_the_same(means, np.roll(means, 1, axis=1))
    moved = means.copy()
    moved[2, 3] += 3
    assert not shows_the_same(means, moved) and not shows_the_same(means, means[:, :9])


# Sources


def test_folders_take_the_same_frames_as_clips(tmp_path):
    images = filmed(steady(41), {10, 20, 30})
    (tmp_path / "in").mkdir()
    for k, image in enumerate(images):
        write_png(tmp_path / "in" / f"{k:02d}.png", image)
    (tmp_path / "in" / "15.png").write_bytes(b"no image")
    write_png(tmp_path / "in" / "25.png", images[0][:50])
    assert load(tmp_path / "in", tmp_path, num_frames_target=5).indices.tolist() == [0, 9, 19, 29, 40]
    (tmp_path / "in" / "10.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="10.png cannot be read"):
        load(tmp_path / "in", tmp_path, num_frames_target=5)


def test_the_choice_is_kept_with_its_sharpness(tmp_path, monkeypatch):
    clip = clip_of(tmp_path / "clip.mp4", filmed(steady(61), {30}))
    first = load(clip, tmp_path, num_frames_target=5)
    monkeypatch.setattr(Video, "read", None)
    again = load(clip, tmp_path, num_frames_target=5)
    assert again.indices.tolist() == first.indices.tolist() == [0, 15, 29, 45, 60]
    for frames in (first, again):
        assert frames.sharpness is not None and len(frames.sharpness.times) == 61
        assert frames.sharpness.values[30] < 0.7 and np.abs(np.delete(frames.sharpness.values, 30) - 1).max() < 0.2


def test_near_frames_surround_what_is_used(tmp_path):
    clip = clip_of(tmp_path / "clip.mp4", filmed(steady(61), {30}))
    frames = load(clip, tmp_path, num_frames_target=3)
    assert frames.near is not None and frames.indices.tolist() == [0, 29, 60]
    assert frames.near.places.tolist() == near.near_indices(frames.indices, np.arange(61)).tolist()


def test_damage_is_found_while_choosing(tmp_path, monkeypatch):
    from easi3r_ns.frames import video

    clip, decode = clip_of(tmp_path / "clip.mp4", filmed(steady(61), {10})), video.decode
    monkeypatch.setattr(video, "decode", lambda stream: (f for i, f in enumerate(decode(stream)) if i < 41))
    log = RunLog()
    frames = load(clip, tmp_path, log, num_frames_target=5)
    assert frames.indices.tolist() == [0, 9, 20, 30, 40] and frames.num_source_frames == 41
    assert any("only 41 of its 61 frames" in warning for warning in log.warnings)


def test_a_rate_that_meets_one_picture_only_is_told_so():
    still = Scan(np.arange(60), np.zeros(60), np.r_[np.ones(55, dtype=int), 2:7], ())
    with pytest.raises(InputError, match="--fps 2 meets one picture only.*higher rate or --num-frames-target"):
        choose_scanned(np.arange(60) / 30, FrameConfig(fps=2.0), still)
    assert len(choose_scanned(np.arange(60) / 30, FrameConfig(num_frames_target=5), still).used) >= 2
