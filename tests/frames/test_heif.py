"""HEIF images, as phones write them: read with pillow-heif, and without it the remedy is named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, load_frames, open_source


def picture(number: int) -> Image.Image:
    """Dark above, bright below, with a red corner at the lower right."""
    pixels = np.full((96, 128, 3), 40 + number, np.uint8)
    pixels[48:] = 180
    pixels[72:, 96:] = (220, 30, 30)
    return Image.fromarray(pixels)


def test_a_folder_of_heif_images(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="no pillow-heif: pip install pillow-heif").register_heif_opener()
    folder = tmp_path / "phone"
    folder.mkdir()
    for number, suffix in enumerate(("heic", "HEIC", "heif")):
        picture(number).save(folder / f"IMG_{number}.{suffix}", format="HEIF", quality=95)
    select = FrameConfig(num_frames_target=0)
    geometry = ImageGeometry(64, 16, False)
    frames = load_frames(folder, tmp_path / "store", select=select, geometry=geometry, log=RunLog())
    assert frames.names == ("IMG_0.heic", "IMG_1.HEIC", "IMG_2.heif") and frames.pixel_map.source_wh == (128, 96)
    for number, image in enumerate(frames.images):
        reference = np.asarray(picture(number).resize((64, 48)))
        assert np.abs(image.astype(int) - reference).mean() < 4
        assert image[44, 60, 0] > 180 > 80 > image[44, 60, 1]


def test_without_the_library_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for number in range(2):
        (tmp_path / f"IMG_{number}.HEIC").write_bytes(b"not read")
    with pytest.raises(InputError, match=r"IMG_\d.HEIC is a HEIF image: .*pip install .*heif"):
        open_source(tmp_path)


def test_one_heif_image_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "IMG_0.heic").write_bytes(b"not read")
    with pytest.raises(InputError, match="IMG_0.heic"):
        open_source(tmp_path / "IMG_0.heic")


def test_a_damaged_heif_image_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="no pillow-heif: pip install pillow-heif")
    for number in range(2):
        (tmp_path / f"IMG_{number}.heic").write_bytes(b"damaged")
    with pytest.raises(InputError, match="IMG_0.heic cannot be read as an image"):
        load_frames(
            tmp_path, tmp_path / "store", select=FrameConfig(), geometry=ImageGeometry(64, 16, False), log=RunLog()
        )
