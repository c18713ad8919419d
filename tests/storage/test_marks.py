"""What a mask marks, in every form in which programs write masks."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.evaluate.datasets import read_mask as read_true_mask
from easi3r_ns.importers.recording import read_mask as read_imported_mask
from easi3r_ns.storage.marks import marks_of_pixels, mask_files, read_marks
from easi3r_ns.storage.mask_record import masks_of_dataset
from tests.support.dataset_scene import make_scene

SQUARE = np.zeros((48, 64), bool)
SQUARE[10:30, 10:30] = True
GREY = SQUARE * np.uint8(255)


def saved(tmp_path: Path, image: Image.Image | np.ndarray, name: str = "a.png", **options) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def palette(entries: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(entries.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def with_alpha(grey: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]))


WHITE, BLACK = np.full(SQUARE.shape, 255, np.uint8), np.zeros(SQUARE.shape, np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SQUARE.shape, 3), dtype=np.uint8)
FORMS = {
    "grey": GREY,
    "0 and 1": SQUARE.astype(np.uint8),
    "16 bit": SQUARE * np.uint16(65535),
    "16 bit, values of 8": SQUARE * np.uint16(255),
    "colour": np.repeat(GREY[..., None], 3, axis=-1),
    "one bit": Image.fromarray(SQUARE),
    "soft edges": Image.fromarray(GREY).resize((32, 24)).resize((64, 48)),
    "two-colour palette, white first": palette(~SQUARE, [(255, 255, 255), (0, 0, 0)]),
    "two-colour palette, black first": palette(SQUARE, [(0, 0, 0), (255, 255, 255)]),
    "palette of an optimiser": palette(np.where(SQUARE, 3, 7), [(9, 9, 9)] * 3 + [(250, 252, 255)] + [(0, 0, 0)] * 5),
    "objects in a palette": palette(SQUARE * (1 + (np.arange(64) > 20)), [(0, 0, 0), (128, 0, 0), (0, 128, 0)]),
    "objects on a black that is not first": palette(~SQUARE, [(128, 0, 0), (0, 0, 0)]),
    "objects without black": palette(SQUARE, [(0, 0, 200), (128, 0, 0)]),
    "objects in colours": SQUARE[..., None] * np.array([128, 0, 64], np.uint8),
    "numbers of objects": SQUARE.astype(np.uint8) * (2 + (np.arange(64) > 20).astype(np.uint8)),
    "white with alpha": with_alpha(WHITE, GREY),
    "black with alpha": with_alpha(BLACK, GREY),
    "the same in colour and alpha": with_alpha(GREY, GREY),
    "opaque": with_alpha(GREY, WHITE),
    "cut-out of a photo": Image.fromarray(np.dstack([PHOTO, GREY])),
    "grey and alpha": Image.fromarray(np.dstack([WHITE, GREY]), "LA"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_marks_the_same(tmp_path, form):
    path = saved(tmp_path, FORMS[form])
    marks = read_marks(path)
    tolerance = 70 if form == "soft edges" else 0
    assert (marks.marked != SQUARE).sum() <= tolerance
    assert marks.objects == form.startswith(("objects", "numbers"))
    np.testing.assert_array_equal(read_imported_mask(path), marks.marked)
    if form != "soft edges" and not form.startswith("palette of"):
        np.testing.assert_array_equal(read_true_mask(path), SQUARE)


def test_the_palette_of_the_report(tmp_path):
    image = Image.new("P", (64, 48), 1)
    image.putpalette([255] * 3 + [0] * 765)
    image.paste(0, (10, 10, 30, 30))
    np.testing.assert_array_equal(read_marks(saved(tmp_path, image)).marked, SQUARE)


def test_a_transparent_entry_of_a_palette(tmp_path):
    image = palette(SQUARE, [(255, 255, 255), (255, 255, 255)])
    np.testing.assert_array_equal(read_marks(saved(tmp_path, image, transparency=0)).marked, SQUARE)


def test_compressed_masks(tmp_path):
    large = np.kron(GREY, np.ones((4, 4), np.uint8))
    assert (read_marks(saved(tmp_path, large, "a.jpg", quality=60)).marked != (large > 0)).mean() < 1e-3
    dark = np.random.default_rng(0).integers(0, 4, SQUARE.shape).astype(np.uint8)
    assert not marks_of_pixels(dark, "dark").marked.any(), "noise of compression is no object"
    assert not read_marks(saved(tmp_path, dark, "b.jpg")).marked.any()


def test_noise_of_a_scanner_or_a_video(tmp_path):
    large = np.kron(GREY, np.ones((4, 4), np.uint8))
    noise = np.random.default_rng(0).normal(0, 20, large.shape)
    noisy = np.clip(large + noise, 0, 255).astype(np.uint8)
    assert (read_marks(saved(tmp_path, noisy, "a.jpg", quality=70)).marked != (large > 0)).mean() < 1e-3


def test_floats(tmp_path):
    path = saved(tmp_path, Image.fromarray(SQUARE.astype(np.float32)), "a.tiff")
    np.testing.assert_array_equal(read_marks(path).marked, SQUARE)
    with pytest.raises(InputError, match="negative or undefined"):
        read_marks(saved(tmp_path, Image.fromarray(np.where(SQUARE, np.nan, 0).astype(np.float32)), "b.tiff"))


@pytest.mark.parametrize(
    "image",
    [
        with_alpha(255 - GREY, GREY),
        with_alpha(np.roll(GREY, 20, axis=1), GREY),
        with_alpha(GREY, np.where(SQUARE, 100, 90).astype(np.uint8)),
        Image.fromarray(np.dstack([255 - GREY, GREY]), "LA"),
    ],
    ids=["opposite", "elsewhere", "all transparent", "grey"],
)
def test_colour_against_alpha_is_an_error(tmp_path, image):
    with pytest.raises(InputError, match="something else than its alpha channel"):
        read_marks(saved(tmp_path, image))


@pytest.mark.parametrize("image", [PHOTO, np.full(SQUARE.shape, 128, np.uint8), GREY // 4 + 70])
def test_pictures_are_no_masks(tmp_path, image):
    with pytest.raises(InputError, match="not a mask"):
        read_marks(saved(tmp_path, image))


def test_rendered_and_filmed_pictures_are_no_masks(tmp_path):
    import av

    with av.open(str(Path(__file__).parents[2] / "examples" / "clip" / "clip.mp4")) as clip:
        picture = next(clip.decode(video=0)).to_image()
    for k, image in enumerate((picture, picture.convert("L"), picture.convert("1"), picture.quantize(64))):
        with pytest.raises(InputError, match="not a mask"):
            read_marks(saved(tmp_path, image, f"{k}.png"))


def test_a_dark_picture_is_no_mask(tmp_path):
    with pytest.raises(InputError, match="nothing in .* is brighter than 100 of 255"):
        read_marks(saved(tmp_path, SQUARE * np.uint8(100)))


def bomb() -> bytes:
    """A small PNG that announces 60000 x 60000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10000))), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("content", [bomb(), b"", b"no image", b"\x89PNG\r\n\x1a\n", io.BytesIO().getvalue()])
@pytest.mark.parametrize("read", [read_marks, read_true_mask])
def test_what_cannot_be_read_is_one_line(tmp_path, content, read):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png cannot be read as a mask") as caught:
        read(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    with pytest.raises((InputError, ValueError, OSError)):
        read_imported_mask(tmp_path / "a.png")


def test_files_that_systems_leave_do_not_count(tmp_path):
    for k in range(3):
        saved(tmp_path, GREY, f"{k:05d}.png")
        (tmp_path / f"._{k:05d}.png").write_bytes(b"x" * 160)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    saved(tmp_path / "__MACOSX", GREY, "00000.png")
    (tmp_path / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    assert [file.name for file in mask_files(tmp_path)] == [f"{k:05d}.png" for k in range(3)]


def test_masks_of_a_dataset_are_recognised(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (160, 120), 3)
    out = tmp_path / "out"
    write_dataset(scene, out, DatasetConfig(num_downscales=1), RunLog())
    assert masks_of_dataset(out / "masks") == str(out.resolve() / "transforms.json")
    assert masks_of_dataset(out / "masks_2") and masks_of_dataset(out / "images") is None
    moving = read_true_mask(out / "masks" / "frame_00001.png")
    assert 0 < moving.mean() < 0.5, "in a dataset black moves"
    (out / ".easi3r_files.json").unlink()
    assert masks_of_dataset(out / "masks"), "named by transforms.json, as in any dataset of nerfstudio"
    (out / "transforms.json").unlink()
    assert masks_of_dataset(out / "masks") is None
    (out / "transforms.json").write_text("[" * 100000)
    assert masks_of_dataset(out / "masks") is None
