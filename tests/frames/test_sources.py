"""Kinds of sources beside videos and folders: animations, patterns, archives, and folders of several sizes."""

from __future__ import annotations

import io
import re
import shlex
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, load_frames, open_source, preview_source, selection_of_views
from easi3r_ns.frames.cuts import thumbnail
from easi3r_ns.frames.images import glance, read_image
from easi3r_ns.frames.shapes import upright_size
from easi3r_ns.storage.files import read_png
from easi3r_ns.storage.marks import read_marks

TINY = ImageGeometry(size=64, patch=8)
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
ALL = FrameConfig(num_frames_target=0, on_cut="ignore")


def picture(number: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A picture whose left half has the grey level 10 * number."""
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((10 * number,) * 3, (0, 0, size[0] // 2, size[1]))
    return image


def numbers(frames) -> list[int]:
    return [round(float(read_png(path)[8, 8].mean()) / 10) for path in frames.source_paths]


def load(data: Path, tmp_path: Path, select: FrameConfig = ALL, log: RunLog | None = None):
    return load_frames(data, tmp_path / "store", select=select, geometry=TINY, log=log or RunLog())


def folder_of(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, 1):
        picture(number).save(folder / name)
    return folder


# Animations


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.apng", pytest.param("a.avif", marks=NEEDS_AVIF)])
def test_animations_bring_their_own_times(tmp_path, name):
    durations = [100, 300, 50, 200]
    by_kind = {"png": {"format": "PNG"}, "apng": {"format": "PNG"}, "webp": {"lossless": True}, "avif": {"quality": 95}}
    options = by_kind.get(name.split(".")[1], {})
    first, *rest = [picture(k) for k in range(1, 5)]
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=durations, loop=0, **options)
    frames = load(tmp_path / name, tmp_path)
    np.testing.assert_allclose(frames.times, [0, 0.1, 0.4, 0.45], atol=1e-6)
    assert numbers(frames) == [1, 2, 3, 4] and set(frames.names) == {name}
    assert preview_source(tmp_path / name, FrameConfig(fps=5), TINY, RunLog())[0] == 3
    assert load(tmp_path / name, tmp_path, FrameConfig(num_frames_target=2)).indices.tolist() == [0, 3]


def test_frames_of_an_animation_are_composed(tmp_path):
    """The second frame is a small patch over the first, the third one over the background after its disposal."""
    base = picture(9).convert("P")
    patch = Image.new("P", (96, 64), 0)
    patch.putpalette(base.getpalette())
    frames = [picture(9), picture(9), picture(9)]
    frames[1].paste((0, 0, 255), (0, 0, 16, 16))
    frames[2].paste((0, 255, 0), (80, 48, 96, 64))
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, disposal=[0, 2, 0])
    got = [read_png(path) for path in load(tmp_path / "a.png", tmp_path).source_paths]
    assert got[1][8, 8].tolist() == [0, 0, 255] and got[1][60, 90].tolist() == [200, 30, 30]
    assert got[2][60, 90].tolist() == [0, 255, 0] and got[2][8, 8].tolist() == [90, 90, 90]


def test_animations_without_times_run_as_in_a_browser(tmp_path):
    first, *rest = [picture(k) for k in range(1, 4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=0)
    np.testing.assert_allclose(load(tmp_path / "a.gif", tmp_path).times, [0, 0.1, 0.2])


def test_a_damaged_animation_is_used_as_far_as_it_goes(tmp_path):
    rng = np.random.default_rng(0)
    first, *rest = [Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)) for _ in range(6)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=100)
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) * 6 // 10])
    log = RunLog()
    assert 2 <= len(load(tmp_path / "a.gif", tmp_path, log=log)) < 6
    assert any("damaged" in warning for warning in log.warnings)


def test_a_gif_of_one_picture_is_a_single_image(tmp_path):
    picture(1).save(tmp_path / "a.gif")
    with pytest.raises(InputError, match="single image"):
        open_source(tmp_path / "a.gif")


# Patterns


def test_numbered_patterns(tmp_path):
    names = ["shot_0002.png", "shot_0010.png", "shot_0009.png", "shot_12345.png", "shot_7.png", "shot_x.png", "o.png"]
    folder = folder_of(tmp_path / "in", names)
    assert numbers(load(folder / "shot_%04d.png", tmp_path)) == [1, 3, 2, 4]
    folder_of(tmp_path / "plain", ["7.png", "10.png", "08.png"])
    assert load(tmp_path / "plain" / "%d.png", tmp_path).names == ("7.png", "10.png")
    folder_of(tmp_path / "per", ["5%_1.png", "5%_2.png"])
    assert len(load(tmp_path / "per" / "5%%_%d.png", tmp_path)) == 2
    with pytest.raises(InputError, match="one number"):
        open_source(folder / "a%d_%d.png")
    with pytest.raises(InputError, match="matches no file"):
        open_source(folder / "none_%04d.png")
    with pytest.raises(InputError, match="does not exist"):
        open_source(tmp_path / ("x" * 300 + ".mp4"))


def test_globs(tmp_path):
    folder = folder_of(tmp_path / "in", ["a_10.png", "a_9.png", "b_1.png", "._a_1.png"])
    for name in ("a_note.txt", "b_note.txt"):
        (folder / name).write_text("no image")
    assert load(folder / "a_*", tmp_path).names == ("a_9.png", "a_10.png")
    assert load(folder / "a_?*.png", tmp_path).names == ("a_9.png", "a_10.png")
    folder_of(tmp_path / "in" / "sub", ["c.png"])
    assert load(tmp_path / "in" / "**" / "[bc]*.png", tmp_path).names == ("in/b_1.png", "sub/c.png")
    with pytest.raises(InputError, match="matches no file"):
        open_source(folder / "*.jpg")
    with pytest.raises(InputError, match="none of them an image"):
        open_source(folder / "*.t?t")


def test_a_glob_of_one_folder_or_clip_is_that(tmp_path):
    folder_of(tmp_path / "only_one", ["a.png", "b.png"])
    assert load(tmp_path / "only_*", tmp_path).names == ("a.png", "b.png")


def test_a_file_with_the_name_of_a_pattern_is_that_file(tmp_path):
    folder = folder_of(tmp_path / "shots [1] %04d", ["a.png", "b.png"])
    assert load(folder, tmp_path).names == ("a.png", "b.png")


# Archives


def archive_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def test_archives_of_images(tmp_path):
    members = {f"shots/in ä/{name}.png": encoded(k) for k, name in ((1, "a_2"), (2, "a_10"), (3, "a_1"))}
    members |= {
        "__MACOSX/shots/in ä/._a_1.png": b"no image",
        "shots/.hidden.png": b"no",
        "shots/in ä/@eaDir/a_1.png": b"no",
        "read me.txt": b"x",
    }
    path = archive_of(tmp_path / "shots.zip", members)
    before = {entry.name for entry in tmp_path.iterdir()}
    frames = load(path, tmp_path)
    assert numbers(frames) == [3, 1, 2] and frames.names == ("a_1.png", "a_2.png", "a_10.png")
    assert {entry.name for entry in tmp_path.iterdir()} == before | {"store"}
    assert preview_source(path, FrameConfig(num_frames_target=2), TINY, RunLog())[0] == 2


def test_archives_of_several_folders_name_them(tmp_path):
    members = {f"{side}/{k}.png": encoded(k + n) for n, side in ((0, "left"), (5, "right")) for k in (1, 2)}
    path = archive_of(tmp_path / "shots.zip", members | {"left/3.png": encoded(3)})
    with pytest.raises(InputError, match=r"2 folders \(left: 3, right: 2\).*shots.zip/left"):
        open_source(path)
    assert numbers(load(path / "right", tmp_path)) == [6, 7]
    with pytest.raises(InputError, match="no folder up"):
        open_source(path / "up")


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png"])
def test_archives_with_names_that_lead_out_are_refused(tmp_path, name):
    path = archive_of(tmp_path / "evil.zip", {"1.png": encoded(1), "2.png": encoded(2), name: encoded(3)})
    with pytest.raises(InputError, match="leads out"):
        open_source(path)


def test_archives_that_would_fill_the_disk_are_refused_by_their_headers(tmp_path):
    bomb = archive_of(tmp_path / "bomb.zip", {"1.png": encoded(1), "2.bmp": bytes(70 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="would grow from"):
        open_source(bomb)
    content = bytearray(archive_of(tmp_path / "big.zip", {"1.png": encoded(1), "2.png": encoded(2)}).read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, (3 << 30) + 1)
    (tmp_path / "big.zip").write_bytes(content)
    with pytest.raises(InputError, match="3.0 GiB"):
        open_source(tmp_path / "big.zip")


def test_archives_that_are_no_archives(tmp_path):
    (tmp_path / "no.zip").write_bytes(b"no archive at all")
    with pytest.raises(InputError, match="cannot be read as a ZIP"):
        open_source(tmp_path / "no.zip")
    with pytest.raises(InputError, match="holds no image"):
        open_source(archive_of(tmp_path / "text.zip", {"a.txt": b"x"}))
    with pytest.raises(InputError, match=r"no image \(clip.mp4\): unpack it"):
        open_source(archive_of(tmp_path / "video.zip", {"clip.mp4": b"x"}))
    path = archive_of(tmp_path / "damaged.zip", {"1.png": encoded(1), "2.png": encoded(2)[:60]})
    with pytest.raises(InputError, match="damaged.zip/2.png cannot be read"):
        load(path, tmp_path)
    content = bytearray(archive_of(tmp_path / "crc.zip", {"1.png": encoded(1), "2.png": encoded(2)}).read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    (tmp_path / "crc.zip").write_bytes(content)
    with pytest.raises(InputError, match="1.png cannot be unpacked"):
        load(tmp_path / "crc.zip", tmp_path)
    locked = bytearray(archive_of(tmp_path / "locked.zip", {"1.png": encoded(1), "2.png": encoded(2)}).read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(InputError, match="password"):
        open_source(tmp_path / "locked.zip")


# Several sizes


def mixed(folder: Path) -> Path:
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    for number in range(1, 7):
        picture(number, (80, 60)).save(
            folder / f"{number}.jpg", quality=95, **({"exif": turned} if number in (2, 5) else {})
        )
    return folder


def test_mixed_shapes_are_counted_and_the_printed_options_keep_the_majority(tmp_path):
    folder = mixed(tmp_path / "my photos")
    with pytest.raises(InputError, match="6 images: 4 of 80x60, 2 of 60x80") as error:
        load(folder, tmp_path)
    with pytest.raises(InputError, match="4 of 80x60, 2 of 60x80"):
        preview_source(folder, ALL, TINY, RunLog())
    words = shlex.split(re.search(r"(--data .* --image-size \S+)", str(error.value))[1])
    assert words[0] == "--data"
    select = FrameConfig(num_frames_target=0, on_cut="ignore", image_size=words[3])
    frames = load(Path(words[1]), tmp_path, select)
    assert frames.names == ("1.jpg", "3.jpg", "4.jpg", "6.jpg") and frames.pixel_map.source_wh == (80, 60)
    assert load(Path(words[1]), tmp_path, select).names == frames.names
    assert load(folder / "*.jpg", tmp_path, select).names == frames.names


def test_image_size_is_checked(tmp_path):
    folder = mixed(tmp_path / "photos")
    with pytest.raises(InputError, match="leaves 0 of 6 images: 4 of 80x60"):
        load(folder, tmp_path, FrameConfig(image_size="81x60"))
    for text in ("80", "80x", "0x60", "80*60", "-80x60"):
        with pytest.raises(InputError, match="image-size"):
            FrameConfig(image_size=text)
    first, *rest = [picture(k) for k in range(3)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    with pytest.raises(InputError, match="one size"):
        load(tmp_path / "a.gif", tmp_path, FrameConfig(image_size="96x64"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", pytest.param("avif", marks=NEEDS_AVIF)])
@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_the_size_and_the_glance_of_an_image_are_those_of_the_image(tmp_path, suffix, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((800, 600))
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    (grey, size), whole = glance(tmp_path / f"a.{suffix}"), read_image(tmp_path / f"a.{suffix}", RunLog())
    assert upright_size(tmp_path / f"a.{suffix}") == size == whole.shape[1::-1]
    assert np.abs(grey.astype(int) - thumbnail(whole)).mean() < 2


def test_the_picture_for_programs_without_animation_is_no_frame(tmp_path):
    """An animated PNG may begin with a picture that is not part of the animation."""
    still, *rest = [picture(k) for k in (9, 1, 2, 3)]
    still.save(tmp_path / "a.png", save_all=True, append_images=rest, duration=100, default_image=True)
    frames = load(tmp_path / "a.png", tmp_path)
    assert numbers(frames) == [1, 2, 3]
    np.testing.assert_allclose(frames.times, [0, 0.1, 0.2], atol=1e-6)


def test_what_is_transparent_is_white(tmp_path):
    images = [picture(k).convert("RGBA") for k in (1, 2)]
    for image in images:
        image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=100, lossless=True)
    log = RunLog()
    image = read_png(load(tmp_path / "a.webp", tmp_path, log=log).source_paths[1])
    assert image[4, 4].tolist() == [255, 255, 255] and image[40, 40].tolist() == [20, 20, 20]
    assert any("transparent" in warning for warning in log.warnings)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("damaged", [b"Exif\0\0II*\0", b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0II*\0\x08\0\0\0\xff"])
def test_damaged_exif_data_spoil_no_picture(tmp_path, suffix, damaged):
    path, picture = tmp_path / f"a.{suffix}", np.full((40, 60, 3), 255, np.uint8)
    Image.fromarray(picture).save(path, exif=damaged)
    assert read_image(path, RunLog()).shape == picture.shape
    assert glance(path)[1] == upright_size(path) == (60, 40)
    assert read_marks(path).marked.all()


def test_options_of_the_clip_do_not_stop_views_of_another_kind(tmp_path):
    """A rate is for a clip with a clock, a size for a folder of images; views may be the other of both."""
    images = folder_of(tmp_path / "images", ["1.png", "2.png", "3.png"])
    rate = FrameConfig(fps=4.0, start=1.0, end=2.0, on_cut="fail", pose_all_frames=True)
    assert numbers(load(images, tmp_path, selection_of_views(images, rate))) == [1, 2, 3]
    film = tmp_path / "film.gif"
    picture(1).save(film, save_all=True, append_images=[picture(2), picture(3)], duration=100)
    size = replace(ALL, image_size="96x64")
    assert selection_of_views(film, size) == ALL and selection_of_views(images, size) == size


def test_a_folder_without_images_says_where_they_are_or_what_it_holds(tmp_path):
    folder_of(tmp_path / "shots" / "left", ["a.jpg", "b.jpg"])
    with pytest.raises(InputError, match=r"shots holds no image.*there are images in .*left: give that"):
        open_source(tmp_path / "shots")
    (tmp_path / "raw").mkdir()
    for number in range(4):
        (tmp_path / "raw" / f"{number}.dng").touch()
    with pytest.raises(InputError, match=r"raw holds no image.*of other kinds \(0.dng, 1.dng, 2.dng, \.\.\.\)"):
        open_source(tmp_path / "raw")


@pytest.mark.parametrize(("content", "told"), [(b"", "it has 0 bytes"), (b"\0" * 99, "it is no image")])
def test_what_is_no_image_is_told_in_plain_words(tmp_path, content, told):
    folder = folder_of(tmp_path / "in", ["0.png", "1.png", "2.png"])
    (folder / "1.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"1.png cannot be read as an image \({told}"):
        load(folder, tmp_path)
