"""Frames: preprocessing against golden numbers, selection, videos and folders of every awkward kind."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.core.geometry import network_to_source
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import (
    ImageGeometry,
    enlarged,
    load_frames,
    plan_preprocessing,
    preview_source,
    resize_and_crop,
)
from easi3r_ns.frames.select import choose_frames
from easi3r_ns.frames.video import Video
from easi3r_ns.storage.files import natural_key, read_png, write_png
from tests.support.helpers import GOLDEN, shared_data

TINY = ImageGeometry(size=64, patch=8)
ALL = FrameConfig(num_frames_target=0)
WHOLE = FrameConfig(num_frames_target=0, on_cut="ignore")


# Preprocessing


def test_plan_equals_every_row_of_the_golden_table():
    table = np.load(GOLDEN / "image_preproc.npz")
    assert len(table["size"]) == 80
    for row in range(80):
        size = int(table["size"][row])
        geometry = ImageGeometry(size, 16, square=size == 224, square_ok=bool(table["square_ok"][row]))
        plan = plan_preprocessing(tuple(table["in_wh"][row].tolist()), geometry)
        assert plan.resized_wh == tuple(table["resized_wh"][row]), row
        assert plan.crop_box == tuple(table["crop_box_ltrb"][row]), row
        assert plan.network_wh == tuple(table["out_wh"][row]), row


@pytest.mark.parametrize(
    "size, corner, full_wh", [(512, "px_512_out_corner", (512, 288)), (224, "px_224_out_corner", (224, 224))]
)
def test_pixels_equal_the_golden_ones(size, corner, full_wh):
    golden = np.load(GOLDEN / "image_preproc.npz")
    image = golden["px_input_uint8"]
    plan = plan_preprocessing((170, 96), ImageGeometry(size, 16, square=size == 224))
    out = resize_and_crop(image, plan)
    assert out.shape == (full_wh[1], full_wh[0], 3)
    normalised = out / 127.5 - 1
    np.testing.assert_allclose(normalised[:64, :64].transpose(2, 0, 1), golden[corner], atol=1e-6)
    if size == 512:
        np.testing.assert_allclose([normalised.mean(), normalised.std()], golden["px_512_out_mean_std"], atol=1e-3)


def test_filters_are_those_of_the_golden_table():
    table = np.load(GOLDEN / "image_preproc.npz")
    rng = np.random.default_rng(0)
    for row in range(0, 80, 3):
        wh, size = tuple(table["in_wh"][row].tolist()), int(table["size"][row])
        image = rng.integers(0, 256, (wh[1], wh[0], 3), dtype=np.uint8)
        plan = plan_preprocessing(
            wh, ImageGeometry(size, 16, square=size == 224, square_ok=bool(table["square_ok"][row]))
        )
        resized = Image.fromarray(image).resize(table["resized_wh"][row], Image.Resampling[str(table["resample"][row])])
        expected = np.asarray(resized.crop(tuple(table["crop_box_ltrb"][row].astype(int))))
        np.testing.assert_array_equal(resize_and_crop(image, plan), expected)


@pytest.mark.parametrize(
    "size, patch, square", [(512, 16, False), (224, 16, True), (128, 8, False), (96, 7, False), (130, 16, True)]
)
def test_plans_are_whole_patches_around_the_centre(size, patch, square):
    rng = np.random.default_rng(0)
    for width, height in rng.integers(64, 2000, (200, 2)).tolist():
        if max(width, height) > 5 * min(width, height):
            continue
        plan = plan_preprocessing((width, height), ImageGeometry(size, patch, square))
        w, h = plan.network_wh
        assert w % patch == 0 and h % patch == 0 and min(w, h) > 0
        assert (min if square else max)(plan.resized_wh) == size
        left, top, right, bottom = plan.crop_box
        assert abs(left + right - plan.resized_wh[0]) <= 2 and abs(top + bottom - plan.resized_wh[1]) <= 2
        if square:
            assert w == h
        else:
            assert plan.resized_wh[0] - w < patch + 1 or plan.resized_wh[0] == plan.resized_wh[1]


def test_an_enlarged_crop_shows_the_same_of_the_source():
    plan = plan_preprocessing((1000, 700), ImageGeometry(128, 8))
    larger = enlarged(plan, 3)
    assert larger.network_wh == tuple(3 * side for side in plan.network_wh)
    corners = np.array([[0.0, 0.0], plan.network_wh])
    ours, same = (network_to_source(xy - 0.5, m) for xy, m in ((3 * corners, larger), (corners, plan)))
    np.testing.assert_allclose(ours, same, atol=1e-9)
    image = cv2.GaussianBlur(np.random.RandomState(0).randint(0, 256, (700, 1000, 3)).astype(np.uint8), (0, 0), 25)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    small, large = resize_and_crop(image, plan), resize_and_crop(image, larger)
    means = large.reshape(plan.network_wh[1], 3, plan.network_wh[0], 3, 3).mean(axis=(1, 3))
    assert np.abs(means - small).mean() < 1


@pytest.mark.parametrize("wh, word", [((12, 500), "too small"), ((2000, 20), "elongated")])
def test_images_below_one_patch_are_refused(wh, word):
    with pytest.raises(InputError, match=word):
        plan_preprocessing(wh, ImageGeometry(512, 16))


# Selection


def _choose_naive(times: np.ndarray, count: int) -> list[int]:
    return [int(np.argmin(np.abs(times - t))) for t in np.linspace(times[0], times[-1], count)]


@pytest.mark.parametrize("n, count", [(122, 50), (100, 2), (51, 50), (10, 9), (1000, 7)])
def test_selection_spans_the_clip_evenly(n, count):
    times = np.arange(n) / 29.97
    chosen = choose_frames(times, FrameConfig(num_frames_target=count))
    assert len(chosen) == count and chosen[0] == 0 and chosen[-1] == n - 1
    assert np.ptp(np.diff(chosen)) <= 1
    assert np.abs(chosen - _choose_naive(times, count)).max() <= 1


def test_selection_follows_time_not_the_count_of_frames():
    # 100 frames in the first second, then 10 in nine more: half of the frames must come from the second half of TIME.
    times = np.concatenate([np.arange(100) / 100, 1 + np.arange(1, 11) * 0.9])
    chosen = choose_frames(times, FrameConfig(num_frames_target=11))
    np.testing.assert_allclose(times[chosen], np.linspace(0, 10, 11), atol=0.5)


def test_selection_never_repeats_a_frame_across_a_gap():
    times = np.array([0, 0.1, 0.2, 9.8, 9.9, 10.0])
    for count in range(2, 7):
        chosen = choose_frames(times, FrameConfig(num_frames_target=count))
        assert len(chosen) == count and (np.diff(chosen) > 0).all() and (chosen[0], chosen[-1]) == (0, 5)


def test_start_end_and_fps():
    times = np.arange(300) / 30
    chosen = choose_frames(times, FrameConfig(num_frames_target=5, start=2, end=4))
    np.testing.assert_allclose(times[chosen], [2, 2.5, 3, 3.5, 4], atol=1e-9)
    assert len(choose_frames(times, FrameConfig(fps=10))) == 100
    assert len(choose_frames(times, FrameConfig(fps=1e4))) == 300
    assert len(choose_frames(times, ALL)) == 300


@pytest.mark.parametrize(
    "select, word",
    [
        (FrameConfig(start=50), "start 50"),
        (FrameConfig(start=1, end=1.01), "leaves 1 of 300"),
        (FrameConfig(fps=0.01), "fps 0.01"),
    ],
)
def test_selections_that_leave_nothing_are_refused(select, word):
    with pytest.raises(InputError, match=word):
        choose_frames(np.arange(300) / 30, select)


# Videos


def _code(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """An image that carries its index as 8 bright or dark blocks, a red top left and a blue bottom right corner."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(8):
        image[height // 2 : height // 2 + 16, 8 + bit * 10 : 16 + bit * 10] = 220 if index >> bit & 1 else 0
    image[:16, :16], image[-16:, -16:] = (230, 20, 20), (20, 20, 230)
    return image


def _decode(image: np.ndarray) -> int:
    row = image[image.shape[0] // 2 + 8, 12:92:10].mean(axis=-1)
    return int(sum((row > 110) << np.arange(8)))


def _write_video(path: Path, images: list[np.ndarray], pts: list[int] | None = None, **options) -> Path:
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", "bf": "3", "g": "12"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = pts[index] if pts else index * 4
            frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _turn(mp4: Path, degrees: int) -> Path:
    """Set the display matrix in the track header: counter-clockwise degrees, 16.16 and 2.30 fixed point."""
    c, s = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    one, matrices = 1 << 16, []
    for a, b in ((1, 0), (c, s)):
        matrices.append(np.array([a * one, -b * one, 0, b * one, a * one, 0, 0, 0, 1 << 30], dtype=">i4").tobytes())
    movie, track, *rest = mp4.read_bytes().split(matrices[0])
    mp4.write_bytes(movie + matrices[0] + matrices[1].join([track, matrices[0].join(rest)]))
    return mp4


def _load(data: Path, tmp_path: Path, select: FrameConfig = ALL, log: RunLog | None = None, **geometry):
    return load_frames(
        data, tmp_path / "store", select=select, geometry=geometry.get("geometry", TINY), log=log or RunLog()
    )


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov", "ts"])
def test_video_frames_come_in_presentation_order(tmp_path, suffix):
    clip = _write_video(tmp_path / f"clip.{suffix}", [_code(i) for i in range(40)])
    frames = _load(clip, tmp_path)
    assert frames.num_source_frames == 40
    assert [_decode(cv2.imread(str(p))[..., ::-1]) for p in frames.source_paths] == list(range(40))
    assert frames.indices.tolist() == list(range(40)) and set(frames.names) == {clip.name}
    # The last time stamp of an AVI with B-frames is the muxer's guess.
    np.testing.assert_allclose(frames.times, np.arange(40) / 25, atol=0.05 if suffix == "avi" else 2e-3)
    np.testing.assert_array_equal(
        frames.images[7], resize_and_crop(cv2.imread(str(frames.source_paths[7]))[..., ::-1], frames.pixel_map)
    )


def test_variable_frame_rate_keeps_its_time_stamps(tmp_path):
    pts = np.concatenate([np.arange(20) * 2, 40 + np.arange(20) * 20])
    frames = _load(
        _write_video(tmp_path / "vfr.mkv", [_code(i) for i in range(40)], pts.tolist()),
        tmp_path,
        FrameConfig(num_frames_target=9, sharpest=False),
    )
    np.testing.assert_allclose(frames.times, pts[frames.indices] / 100, atol=1e-3)
    np.testing.assert_allclose(frames.times, np.linspace(0, 4.2, 9), atol=0.11)
    assert [_decode(cv2.imread(str(p))[..., ::-1]) for p in frames.source_paths] == frames.indices.tolist()


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_metadata_is_honoured(tmp_path, rotation):
    upright = _code(5, 96, 64) if rotation in (0, 180) else _code(5, 96, 128)
    # What the sensor stored is the upright picture turned back; the metadata turns it counter-clockwise.
    stored = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
    clip = _turn(_write_video(tmp_path / "turned.mp4", [stored] * 3), rotation)
    image = cv2.imread(str(_load(clip, tmp_path).source_paths[0]))[..., ::-1].astype(int)
    assert image.shape == upright.shape
    assert np.abs(image - upright).mean() < 6
    assert image[4, 4, 0] > 180 > 90 > image[4, 4, 2] and image[-4, -4, 2] > 180


def test_anamorphic_video_gets_square_pixels(tmp_path):
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for index in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_code(index), format="rgb24")))
        container.mux(stream.encode())
    assert _load(path, tmp_path).pixel_map.source_wh == (128, 64)


def test_how_many_of_how_many_is_said(tmp_path, caplog):
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(30)])
    with caplog.at_level("INFO"):
        _load(clip, tmp_path, FrameConfig(num_frames_target=6))
    assert "6 of 30 frames are used" in caplog.text


def test_truncated_video_is_used_as_far_as_it_goes(tmp_path):
    rng = np.random.default_rng(0)
    images = [np.maximum(_code(i, 320, 240), rng.integers(0, 60, (240, 320, 3), dtype=np.uint8)) for i in range(40)]
    whole = _write_video(tmp_path / "whole.mkv", images).read_bytes()
    clip = tmp_path / "cut.mkv"
    clip.write_bytes(whole[: len(whole) * 6 // 10])
    log = RunLog()
    frames = _load(clip, tmp_path, FrameConfig(num_frames_target=5), log)
    assert len(frames) == 5 and 10 < frames.num_source_frames < 38
    assert frames.indices[-1] >= frames.num_source_frames - 2


def test_incomplete_mp4_says_how_many_frames_are_there(tmp_path):
    rng = np.random.default_rng(0)
    images = [np.maximum(_code(i, 320, 240), rng.integers(0, 60, (240, 320, 3), dtype=np.uint8)) for i in range(40)]
    whole = _write_video(tmp_path / "whole.mp4", images, container_options={"movflags": "faststart"}).read_bytes()
    clip = tmp_path / "cut.mp4"
    clip.write_bytes(whole[: len(whole) // 2])
    log = RunLog()
    frames = _load(clip, tmp_path, FrameConfig(num_frames_target=0), log)
    assert 5 < len(frames) < 35 and any("40" in warning for warning in log.warnings)
    again = RunLog()
    _load(clip, tmp_path, FrameConfig(num_frames_target=0), again)
    assert again.warnings == log.warnings


def test_damage_in_the_middle_is_survived(tmp_path):
    rng = np.random.default_rng(0)
    images = [np.maximum(_code(i, 320, 240), rng.integers(0, 60, (240, 320, 3), dtype=np.uint8)) for i in range(48)]
    clip = _write_video(tmp_path / "clip.mkv", images)
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = rng.integers(0, 256, 30_000, dtype=np.uint8).tobytes()
    clip.write_bytes(content)
    frames = _load(clip, tmp_path, FrameConfig(num_frames_target=12))
    # What a decoder hands out around the damage varies a little with its threads.
    assert 9 <= len(frames) <= 12 and (np.diff(frames.indices) > 0).all()


def _grained(index: int) -> np.ndarray:
    return np.maximum(_code(index), np.random.default_rng(index).integers(0, 60, (64, 96, 3), dtype=np.uint8))


def test_frames_drawn_over_damage_are_left_out_up_to_the_next_key_frame(tmp_path):
    clip = _write_video(tmp_path / "clip.ts", [_grained(i) for i in range(48)])
    rng, content = np.random.default_rng(0), bytearray(clip.read_bytes())
    for place in range(len(content) * 9 // 24, len(content) * 10 // 24):
        if place % 188 >= 20 and rng.random() < 0.02:  # not in the heads of the packets
            content[place] = int(rng.integers(256))
    clip.write_bytes(content)
    log = RunLog()
    images = [cv2.imread(str(path))[..., ::-1] for path in _load(clip, tmp_path, WHOLE, log).source_paths]
    seen = [_decode(image) for image in images]
    assert 24 < len(seen) < 48 and seen == sorted(set(seen))
    assert max(np.abs(image.astype(int) - _grained(index)).mean() for image, index in zip(images, seen)) < 5
    assert any("damaged" in warning for warning in log.warnings)


def test_a_recording_that_starts_between_key_frames(tmp_path):
    clip = _write_video(tmp_path / "clip.ts", [_grained(i) for i in range(48)])
    content = clip.read_bytes()
    clip.write_bytes(content[len(content) // 188 * 4 // 48 * 188 :])
    log = RunLog()
    assert preview_source(clip, FrameConfig(num_frames_target=6), TINY, log)[0] == 6
    frames = _load(clip, tmp_path, WHOLE, log)
    assert len(frames) == 40 and _decode(cv2.imread(str(frames.source_paths[0]))[..., ::-1]) == 8
    assert any("can be decoded" in warning for warning in log.warnings)


def test_frames_that_do_not_decode_are_replaced_by_others(tmp_path, monkeypatch):
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(30)])
    from easi3r_ns.frames import video

    decode = video.decode
    monkeypatch.setattr(video, "decode", lambda stream: (f for i, f in enumerate(decode(stream)) if i < 20))
    log = RunLog()
    frames = _load(clip, tmp_path, FrameConfig(num_frames_target=5), log)
    assert len(frames) == 5 and frames.num_source_frames == 20 and frames.indices[-1] == 19
    assert any("only 20 of its 30 frames" in warning for warning in log.warnings)


def test_videos_without_time_stamps_are_counted(tmp_path):
    raw = _write_video(tmp_path / "clip.h264", [_code(i) for i in range(20)], format="h264")
    frames = _load(raw, tmp_path, FrameConfig(num_frames_target=5, sharpest=False))
    assert [_decode(cv2.imread(str(p))[..., ::-1]) for p in frames.source_paths] == frames.indices.tolist()
    assert frames.indices[0] == 0 and frames.indices[-1] == 19 and (np.diff(frames.times) > 0).all()


def _sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return path


def _text(path: Path) -> Path:
    path.write_text("no video at all\n" * 50)
    return path


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda d: d / "missing.mp4", "does not exist"),
        (lambda d: (d / "empty.mp4").touch() or d / "empty.mp4", "empty"),
        (lambda d: _text(d / "text.mp4"), "cannot be read as a video"),
        (lambda d: _sound(d / "sound.wav"), "no video stream"),
        (lambda d: _write_video(d / "one.mp4", [_code(0)]), "1 frame"),
        (lambda d: Image.fromarray(_code(0)).save(d / "one.png") or d / "one.png", "single image"),
        (lambda d: (d / "folder").mkdir() or d / "folder", "no image"),
    ],
    ids=["missing", "empty", "text", "sound", "one frame", "one image", "empty folder"],
)
def test_unusable_sources_are_refused_with_a_remedy(tmp_path, make, word):
    with pytest.raises(InputError, match=word):
        _load(make(tmp_path), tmp_path)


def test_black_and_frozen_clips_are_said(tmp_path):
    for name, image, word in (("black", np.zeros((64, 96, 3), np.uint8), "black"), ("still", _code(3), "frozen")):
        log = RunLog()
        load_frames(
            _write_video(tmp_path / f"{name}.mp4", [image] * 5), tmp_path / name, select=ALL, geometry=TINY, log=log
        )
        assert any(word in warning for warning in log.warnings)


# Folders


def _folder(tmp_path: Path, images: dict[str, Image.Image]) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / name)
    return folder


def test_natural_order(tmp_path):
    names = ["a_10.png", "a_2.png", "b1.png", "A_3.png", "a_02.png"]
    assert sorted(names, key=natural_key) == ["a_02.png", "a_2.png", "A_3.png", "a_10.png", "b1.png"]
    assert sorted(["1.png", "a.png", "10.png", "2x.png", "_1.png"], key=natural_key)  # numbers beside text compare
    folder = _folder(tmp_path, {f"img_{i}.jpg": Image.fromarray(_code(i)) for i in range(12)})
    frames = _load(folder, tmp_path)
    assert frames.names == tuple(f"img_{i}.jpg" for i in range(12))
    assert [_decode(image) for image in (cv2.imread(str(p))[..., ::-1] for p in frames.source_paths)] == list(range(12))
    frames = _load(folder, tmp_path, FrameConfig(num_frames_target=3, start=2, end=8, sharpest=False))
    assert frames.indices.tolist() == [2, 5, 8] and frames.num_source_frames == 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.fromarray(_code(9, 96, 64))
    stored = upright.transpose(undo[orientation]) if undo[orientation] is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        stored.save(folder / name, exif=exif, quality=95)
    image = cv2.imread(str(_load(folder, tmp_path).source_paths[0]))[..., ::-1].astype(int)
    assert image.shape == (64, 96, 3) and np.abs(image - np.asarray(upright)).mean() < 4


def test_names_outside_the_code_page(tmp_path, monkeypatch):
    """On Windows OpenCV's own functions fail on such names; 16-bit colour is what OpenCV decodes."""
    folder = tmp_path / "Fotos_写真"
    folder.mkdir()
    colour16 = _code(5).astype(np.uint16) * 257
    for name in ("Füße_映像.png", "Füße_映像_2.png"):
        write_png(folder / name, colour16)
    monkeypatch.setattr(cv2, "imread", None)
    frames = _load(folder, tmp_path)
    assert frames.names == ("Füße_映像.png", "Füße_映像_2.png")
    np.testing.assert_array_equal(frames.images, np.stack([resize_and_crop(_code(5), frames.pixel_map)] * 2))
    np.testing.assert_array_equal(read_png(frames.source_paths[0]), _code(5))


def test_bit_depths_channels_and_alpha(tmp_path):
    grey16 = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    colour16 = np.stack([grey16, grey16[:, ::-1], grey16[::-1]], axis=-1)
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "0_grey16.png"), grey16)
    cv2.imwrite(str(folder / "1_colour16.png"), colour16[..., ::-1])
    rgb = _code(3)
    alpha = np.dstack([rgb, np.full((64, 96), 7, np.uint8)])
    Image.fromarray(alpha).save(folder / "2_alpha.png")
    Image.fromarray(rgb[..., 0]).save(folder / "3_grey.png")
    Image.fromarray(rgb).quantize(64).save(folder / "4_palette.png")
    Image.fromarray(np.dstack([rgb[..., 0], alpha[..., 3]]), "LA").save(folder / "5_grey_alpha.png")
    Image.fromarray(rgb).save(folder / "6.webp", lossless=True)
    cv2.imwrite(str(folder / "7_colour16.tif"), colour16[..., ::-1])
    cv2.imwrite(str(folder / "8_colour16a.png"), np.dstack([colour16[..., ::-1], grey16]))
    log = RunLog()
    got = [cv2.imread(str(p))[..., ::-1].astype(int) for p in _load(folder, tmp_path, log=log).source_paths]
    grey, colour = np.rint(grey16 / 257).astype(int), np.rint(colour16 / 257).astype(int)
    expected = [
        np.dstack([grey] * 3),
        colour,
        rgb,
        np.dstack([rgb[..., 0]] * 3),
        rgb,
        np.dstack([rgb[..., 0]] * 3),
        rgb,
        colour,
        colour,
    ]
    for index, (image, truth) in enumerate(zip(got, expected)):
        assert np.abs(image - truth).max() <= (3 if index == 4 else 0), index
    assert any("alpha" in warning for warning in log.warnings)


def test_transparency_is_said_where_there_is_some(tmp_path):
    images = {f"{k}.png": Image.fromarray(_code(k)).convert("RGBA") for k in range(2)}
    images |= {f"{k}.tif": Image.fromarray(_code(k)).convert("LAB") for k in range(2, 4)}
    log = RunLog()
    _load(_folder(tmp_path, images), tmp_path, log=log)
    assert not [warning for warning in log.warnings if "transparency" in warning]


def test_mixed_sizes_name_the_two_files(tmp_path):
    sizes = {"a.png": (96, 64), "b.png": (96, 64), "c.png": (64, 96)}
    folder = _folder(tmp_path, {name: Image.new("RGB", size) for name, size in sizes.items()})
    with pytest.raises(InputError, match="a.png is 96x64, c.png is 64x96"):
        _load(folder, tmp_path)


def test_damaged_image_is_named(tmp_path):
    folder = _folder(tmp_path, {f"{i}.jpg": Image.fromarray(_code(i)) for i in range(3)})
    content = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="1.jpg"):
        _load(folder, tmp_path)
    assert not (tmp_path / "store" / "frames.json").exists()


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    folder = _folder(tmp_path, {f"{i}.png": Image.fromarray(_code(i)) for i in range(3)})
    (folder / "notes.txt").write_text("x")
    (folder / "._0.png").write_bytes(b"macOS leaves these")
    (folder / "sub").mkdir()
    assert len(_load(folder, tmp_path)) == 3


def test_fps_needs_a_clock(tmp_path):
    folder = _folder(tmp_path, {f"{i}.png": Image.fromarray(_code(i)) for i in range(3)})
    with pytest.raises(InputError, match="needs a video"):
        _load(folder, tmp_path, FrameConfig(fps=2))


# The store


def _inodes(store: Path) -> list[int]:
    return [file.stat().st_ino for file in sorted(store.glob("frame_*.png"))]


def test_stored_frames_are_reused_only_when_nothing_changed(tmp_path):
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(30)])
    select = FrameConfig(num_frames_target=6, sharpest=False)
    first = _load(clip, tmp_path, select)
    before = _inodes(tmp_path / "store")
    second = _load(clip, tmp_path, select)
    assert _inodes(tmp_path / "store") == before
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.times, second.times)
    assert (first.names, first.source_paths, first.pixel_map) == (second.names, second.source_paths, second.pixel_map)
    assert first.num_source_frames == second.num_source_frames
    larger = _load(clip, tmp_path, select, geometry=ImageGeometry(96, 16))
    assert _inodes(tmp_path / "store") == before and larger.images.shape[2] == 96

    third = _load(clip, tmp_path, FrameConfig(num_frames_target=4))
    assert len(third) == 4 and len(_inodes(tmp_path / "store")) == 4
    third.source_paths[1].unlink()
    assert len(_load(clip, tmp_path, FrameConfig(num_frames_target=4))) == 4 and third.source_paths[1].exists()

    _write_video(tmp_path / "clip.mp4", [_code(i + 100) for i in range(30)])
    assert _decode(cv2.imread(str(_load(clip, tmp_path, select).source_paths[0]))[..., ::-1]) == 100


def test_a_stored_frame_that_was_cut_short_is_extracted_again(tmp_path):
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(10)])
    frames = _load(clip, tmp_path)
    content = frames.source_paths[3].read_bytes()
    frames.source_paths[3].write_bytes(content[:-20])
    _load(clip, tmp_path)
    assert frames.source_paths[3].read_bytes() == content


def test_kill_before_the_manifest_means_a_fresh_start(tmp_path):
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(10)])
    frames = _load(clip, tmp_path)
    (tmp_path / "store" / "frames.json").unlink()
    frames.source_paths[3].write_bytes(b"half a fra")
    again = _load(clip, tmp_path)
    np.testing.assert_array_equal(frames.images, again.images)


def test_rewriting_the_store_leaves_hard_links_alone(tmp_path):
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(10)])
    frames = _load(clip, tmp_path)
    os.link(frames.source_paths[0], tmp_path / "linked.png")
    content = (tmp_path / "linked.png").read_bytes()
    _write_video(tmp_path / "clip.mp4", [_code(i + 50) for i in range(10)])
    _load(clip, tmp_path)
    assert (tmp_path / "linked.png").read_bytes() == content


def test_store_that_cannot_be_written(tmp_path):
    clip = _write_video(tmp_path / "clip.mp4", [_code(i) for i in range(4)])
    (tmp_path / "store").write_text("a file")
    with pytest.raises(OutputError, match="store"):
        _load(clip, tmp_path)


def test_the_manifest_is_plain_json(tmp_path):
    frames = _load(_write_video(tmp_path / "clip.mp4", [_code(i) for i in range(4)]), tmp_path)
    manifest = json.loads((tmp_path / "store" / "frames.json").read_text())
    assert [frame["file"] for frame in manifest["frames"]] == [path.name for path in frames.source_paths]


# Real clips


@pytest.mark.parametrize(
    "clip, total, wh", [("clips/dog.mp4", 122, (1280, 720)), ("clips/blocks.mp4", 292, (1280, 720))]
)
def test_real_clips(tmp_path, clip, total, wh):
    select = FrameConfig(num_frames_target=6, sharpest=False)
    frames = _load(shared_data() / clip, tmp_path, select, geometry=ImageGeometry(512, 16))
    assert frames.num_source_frames == total and frames.images.shape == (6, 288, 512, 3)
    assert frames.pixel_map.source_wh == wh and frames.indices[[0, -1]].tolist() == [0, total - 1]
    assert frames.times[-1] == pytest.approx((total - 1) / 29.97, abs=0.01)


@pytest.mark.parametrize(
    "name, total", [("car-shadow", 40), ("blackswan", 50), ("horsejump-high", 50), ("drift-chicane", 52)]
)
def test_davis_folders(tmp_path, name, total):
    frames = _load(shared_data() / "davis" / "JPEGImages" / "480p" / name, tmp_path, FrameConfig(num_frames_target=5))
    assert frames.num_source_frames == total and frames.pixel_map.source_wh == (854, 480)
    assert frames.names[0] == "00000.jpg" and frames.names[-1] == f"{total - 1:05d}.jpg"


def test_demuxing_alone_counts_the_frames_of_a_real_clip():
    video = Video(shared_data() / "clips" / "dog.mp4")
    times = video.times(ALL, RunLog())
    assert len(times) == 122 and (np.diff(times) > 0).all()
