from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames, PixelMap, SkippedFrames, SourceCut
from easi3r_ns.frames.mask_source import open_masks
from easi3r_ns.frames.user_masks import MarkedFrames, read_user_masks, user_masks_between


@pytest.fixture
def frames(tmp_path) -> Frames:
    """Frames 0, 10 and 11 of a clip of 12, 40x20 pixels, resized to half."""
    pixel_map = PixelMap((40, 20), (20, 10), (2, 1, 18, 9))
    return Frames(
        images=np.zeros((3, 8, 16, 3), np.uint8),
        pixel_map=pixel_map,
        times=np.arange(3.0),
        indices=np.array([0, 10, 11]),
        names=("clip.mp4",) * 3,
        source_paths=(tmp_path,) * 3,
        num_source_frames=12,
    )


def moving(k: int) -> np.ndarray:
    """(20, 40) bool: a block that names its frame."""
    mask = np.zeros((20, 40), bool)
    mask[4 + k : 14, 10:30] = True
    return mask


def write(folder, count, pixels=lambda mask: mask * np.uint8(255), name="mask_{}.png"):
    folder.mkdir()
    for k in range(count):
        Image.fromarray(pixels(moving(k % 8))).save(folder / name.format(k))
    return folder


def expected(k: int) -> np.ndarray:
    """Half size by area, then the crop."""
    share = moving(k).reshape(10, 2, 20, 2).mean(axis=(1, 3))
    return share[1:9, 2:18] >= 0.5


def read(folder: Path, frames: Frames) -> MarkedFrames:
    return read_user_masks(folder, frames, RunLog())


def with_names(frames: Frames, *names: str) -> Frames:
    return replace(frames, names=names)


def film(path: Path, masks: list[np.ndarray], rate: int = 10) -> Path:
    """An H.264 video of masks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = masks[0].shape[1], masks[0].shape[0], "yuv420p"
        for mask in masks:
            rgb = np.repeat((mask * np.uint8(255))[..., None], 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_one_mask_per_used_frame(tmp_path, frames):
    result = read(write(tmp_path / "m", 3), frames)
    assert not result.missing.any() and not result.objects and result.dataset is None
    for k in range(3):
        np.testing.assert_array_equal(result.moving(True)[k], expected(k))
        np.testing.assert_array_equal(result.moving(False)[k], ~expected(k))


def test_one_mask_per_source_frame_is_picked_in_natural_order(tmp_path, frames):
    result = read(write(tmp_path / "m", 12), frames)
    for row, k in enumerate(frames.indices):
        np.testing.assert_array_equal(result.moving(True)[row], expected(k % 8))


def test_masks_of_evaluation_views_follow_those_of_the_clip(tmp_path, frames):
    views = replace(frames, indices=np.array([0, 1, 3]), num_source_frames=4)
    both = frames.followed_by(views)
    result = read(write(tmp_path / "m", 16), both)
    for row, k in enumerate([0, 10, 11, 12, 13, 15]):
        np.testing.assert_array_equal(result.moving(True)[row], expected(k % 8))
    third = both.followed_by(views)
    np.testing.assert_array_equal(third.places, [0, 10, 11, 12, 13, 15, 16, 17, 19])
    np.testing.assert_array_equal(views.followed_by(frames.followed_by(views)).places[-3:], [16, 17, 19])


@pytest.mark.parametrize("count", [3, 12])
def test_masks_of_the_clip_alone_leave_evaluation_views_without(tmp_path, frames, count):
    """One per used frame of the clip, or one per frame of it."""
    folder = write(tmp_path / "m", count)
    both, alone = read(folder, frames.followed_by(frames)), read(folder, frames)
    assert both.missing.tolist() == [False] * 3 + [True] * 3
    np.testing.assert_array_equal(both.share[:3], alone.share)


def test_frames_in_between_have_masks_where_all_frames_of_the_source_have(tmp_path, frames):
    rows = np.array([3, 5])
    skipped = SkippedFrames(rows.astype(float), rows, ("clip.mp4",) * 2, (tmp_path,) * 2)
    assert user_masks_between(write(tmp_path / "used", 3), frames, skipped, True, RunLog()) is None
    mask = user_masks_between(write(tmp_path / "all", 12), frames, skipped, True, RunLog())
    black = user_masks_between(tmp_path / "all", frames, skipped, False, RunLog())
    for row, k in enumerate(rows):
        np.testing.assert_array_equal(mask(row), expected(k))
        np.testing.assert_array_equal(black(row), ~expected(k))


def test_frames_in_between_are_found_by_name(tmp_path, frames):
    frames = with_names(frames, "a.jpg", "d.jpg", "e.jpg")
    skipped = SkippedFrames(np.array([1.0, 2.0]), np.array([1, 2]), ("b.jpg", "c.jpg"), (tmp_path,) * 2)
    folder = named(tmp_path / "m", {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4})
    mask = user_masks_between(folder, frames, skipped, True, RunLog())
    np.testing.assert_array_equal(mask(1), expected(2))
    (folder / "c.png").unlink()
    assert user_masks_between(folder, frames, skipped, True, RunLog()) is None


def named(folder: Path, names: dict[str, int], suffix: str = ".png") -> Path:
    folder.mkdir()
    for name, k in names.items():
        Image.fromarray(moving(k) * np.uint8(255)).save(folder / f"{name}{suffix}")
    return folder


@pytest.mark.parametrize("form", ["{}", "{}_mask", "mask_{}", "{}.jpg", "masks-{}", "{}.JPG.png"])
def test_masks_belong_to_images_by_name(tmp_path, frames, form):
    frames = with_names(frames, "IMG_7.JPG", "img_2.jpg", "x.png")
    form = form.replace("{}", "{0}")
    folder = named(tmp_path / "m", {form.format("x"): 2, form.format("img_2"): 1, form.format("img_7"): 0})
    result = read(folder, frames)
    for row in range(3):
        np.testing.assert_array_equal(result.moving(True)[row], expected(row))


def test_missing_masks_are_known_by_name(tmp_path, frames):
    frames = with_names(frames, "a.jpg", "b.jpg", "c.jpg")
    result = read(named(tmp_path / "m", {"c": 2, "a": 0, "other": 5}), frames)
    assert result.missing.tolist() == [False, True, False]
    np.testing.assert_array_equal(result.moving(True)[2], expected(2))
    assert not result.moving(True)[1].any() and not result.moving(False)[1].any()


def test_two_masks_of_one_frame_are_refused(tmp_path, frames):
    folder = named(tmp_path / "m", {"a": 0, "a_mask": 1})
    with pytest.raises(InputError, match="are masks of the same frame"):
        read(folder, with_names(frames, "a.jpg", "b.jpg", "c.jpg"))


def test_equal_names_in_two_sources_tell_nothing(tmp_path, frames):
    frames = with_names(frames, "a.jpg", "b.jpg", "c.jpg")
    both = frames.followed_by(frames)
    with pytest.raises(InputError, match="3 images for 6 used frames of 24"):
        read(named(tmp_path / "m", {"a": 0, "b": 1, "c": 2}), both)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"frame_00001": 0, "frame_00003": 2}, [0, None, 2]),  # as in the dataset: used frames, from 1
        ({"000": 0, "011": 3, "004": 1}, [0, None, 3]),  # frames of the source, from 0
        ({"m_12": 3, "m_11": 2, "m_4": 1, "m_5": 1}, [None, 2, 3]),  # from 1
    ],
)
def test_masks_of_some_frames_of_a_video(tmp_path, frames, names, found):
    if len(names) == len(frames):
        names = {**names, "005": 7}
    result = read(named(tmp_path / "m", names), frames)
    assert result.missing.tolist() == [k is None for k in found]
    for row, k in enumerate(found):
        if k is not None:
            np.testing.assert_array_equal(result.moving(True)[row], expected(k))


@pytest.mark.parametrize("names", [{"m_3": 0, "m_4": 1}, {"a": 0, "b": 1}, {"m_1": 0, "n_1": 1}, {"0": 0, "99": 1}])
def test_numbers_that_do_not_tell_the_frame_are_refused(tmp_path, frames, names):
    with pytest.raises(InputError, match="2 images.* for 3 used frames.*Name each mask as its frame is called"):
        read(named(tmp_path / "m", names), frames)


@pytest.mark.parametrize("scale", [0.5, 2, 3])
def test_masks_of_any_size(tmp_path, frames, scale):
    exact = named(tmp_path / "m", {str(k): k for k in range(3)})
    other = tmp_path / "other"
    other.mkdir()
    for file in exact.iterdir():
        with Image.open(file) as image:
            size = round(40 * scale), round(20 * scale)
            image.resize(size, Image.Resampling.NEAREST).save(other / file.name)
    np.testing.assert_array_equal(read(exact, frames).moving(True), read(other, frames).moving(True))


def test_masks_in_an_archive(tmp_path, frames):
    import zipfile

    folder = write(tmp_path / "m", 3)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"masks/{file.name}")
            archive.writestr(f"__MACOSX/masks/._{file.name}", b"x" * 160)
    np.testing.assert_array_equal(read(tmp_path / "m.zip", frames).share, read(folder, frames).share)
    np.testing.assert_array_equal(read(folder / "mask_%d.png", frames).share, read(folder, frames).share)


@pytest.mark.parametrize("count", [3, 12])
def test_a_video_of_masks_in_order(tmp_path, frames, count):
    large = replace(frames, pixel_map=PixelMap((160, 80), (20, 10), (2, 1, 18, 9)))
    masks = [np.kron(moving(k % 8), np.ones((4, 4), bool)) for k in range(count)]
    path = film(tmp_path / "masks.mp4", masks)
    result = read(path if count == 3 else tmp_path, large)  # the folder that holds it means the same
    for row, k in enumerate([0, 1, 2] if count == 3 else frames.indices):
        np.testing.assert_array_equal(result.moving(True)[row], expected(k % 8))


def test_a_video_of_masks_by_time(tmp_path, frames):
    """A clip of 12 frames at 10 a second, and masks of its first 0.6 seconds at 5 a second."""
    large = replace(
        frames,
        pixel_map=PixelMap((160, 80), (20, 10), (2, 1, 18, 9)),
        times=np.array([0.0, 0.4, 1.1]),
        indices=np.array([0, 4, 11]),
    )
    masks = [np.kron(moving(2 * k), np.ones((4, 4), bool)) for k in range(4)]
    result = read(film(tmp_path / "masks.mp4", masks, rate=5), large)
    assert result.missing.tolist() == [False, False, True]
    np.testing.assert_array_equal(result.moving(True)[1], expected(4))


def test_a_film_that_is_no_mask_is_refused(tmp_path, frames):
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 40, 20, "yuv420p"
        for _ in range(3):
            grey = np.repeat(rng.integers(60, 200, (20, 40, 1), dtype=np.uint8), 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="--masks .*clip.mp4, frame 0, is a picture in grey, not a mask"):
        read(tmp_path / "clip.mp4", frames)


def test_masks_that_cannot_be_meant_are_refused(tmp_path, frames):
    with pytest.raises(InputError, match="--masks: .*does not exist"):
        read(tmp_path / "none", frames)
    with pytest.raises(InputError, match="2 images for 3 used frames of 12"):
        read(write(tmp_path / "few", 2, name="m{}.png"), with_names(frames, "a", "b", "c"))
    with pytest.raises(InputError, match="masks are black and white"):
        read(write(tmp_path / "dark", 3, lambda m: m * np.uint8(100)), frames)
    with pytest.raises(InputError, match="is 10x20, the frames are 40x20"):
        read(write(tmp_path / "small", 3, lambda m: m[:, :10] * np.uint8(255)), frames)
    bad = write(tmp_path / "bad", 3)
    (bad / "mask_1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"mask_1\.png cannot be read as a mask"):
        read(bad, frames)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no mask image in this folder$"):
        read(tmp_path / "empty", frames)
    (bad / "mask_1.png").rename(tmp_path / "empty" / "x.png")
    with pytest.raises(InputError, match="there are images in its folder bad: give that"):
        open_masks(tmp_path, RunLog())


@pytest.mark.parametrize("scale", [1, 2, 0.5])
@pytest.mark.parametrize("whole", [True, False])
def test_masks_follow_what_is_cut_off_the_frames(tmp_path, frames, whole, scale):
    """Bars of 6 rows above and below: a mask is one of whole frames, 40x32, or of what is left."""
    cut = SourceCut((40, 32), (0, 6, 40, 26), (0, 6, 40, 26))
    barred = replace(frames, pixel_map=replace(frames.pixel_map, cut=cut))
    folder = tmp_path / "m"
    folder.mkdir()
    for k in range(3):
        mask = np.pad(moving(k), ((6, 6), (0, 0)), constant_values=k == 1) if whole else moving(k)
        image = Image.fromarray(mask * np.uint8(255))
        image.resize((round(mask.shape[1] * scale), round(mask.shape[0] * scale)), 0).save(folder / f"{k}.png")
    for k in range(3):
        np.testing.assert_array_equal(read(folder, barred).moving(True)[k], expected(k))


def test_a_cut_that_keeps_the_shape_is_told_by_the_size(tmp_path, frames):
    cut = SourceCut((80, 40), (10, 10, 50, 30), (0, 0, 80, 40))
    smaller = replace(frames, pixel_map=replace(frames.pixel_map, cut=cut))
    folders = {
        "whole": lambda k: np.pad(moving(k), ((10, 10), (10, 30))),
        "left": moving,
        "unclear": lambda k: np.kron(moving(k), np.ones((4, 4), bool)),
        "other": lambda k: moving(k)[:, :20],
    }
    for name, mask in folders.items():
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.fromarray(mask(k) * np.uint8(255)).save(tmp_path / name / f"{k}.png")
    for name in ("whole", "left"):
        np.testing.assert_array_equal(read(tmp_path / name, smaller).moving(True)[1], expected(1))
    with pytest.raises(
        InputError, match=r"160x80, in the shape of the whole frames \(80x40\) and .* left .* \(40x20\)"
    ):
        read(tmp_path / "unclear", smaller)
    with pytest.raises(InputError, match=r"is 20x20, the frames are 40x20 \(whole frames: 80x40\)"):
        read(tmp_path / "other", smaller)
