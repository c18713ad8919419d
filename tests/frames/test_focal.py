"""The focal length that files name: real EXIF and QuickTime metadata, what was resized or cropped, and nonsense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames, RecordedFocal
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.frames.focal import PHOTO_SIGMA, VIDEO_SIGMA, LensTags, common_focal, photo_focal, read_tags

DIAGONAL = math.hypot(36, 24)
WIDTH, HEIGHT = 200, 150
ACROSS = math.hypot(WIDTH, HEIGHT)
EQUIVALENT, FOCAL, ZOOM, PLANE, UNIT, PIXELS_X, PIXELS_Y = 0xA405, 0x920A, 0xA404, 0xA20E, 0xA210, 0xA002, 0xA003


def photos(folder: Path, tags: Sequence[dict[int, object]], orientation: int = 1) -> Path:
    """A folder of JPEGs, one for each dictionary of EXIF tags."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k, own in enumerate(tags):
        image = Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif.get_ifd(0x8769).update(own)
        image.save(folder / f"{k}.jpg", exif=exif)
    return folder


def film(path: Path, equivalent: str) -> Path:
    """A MOV or MP4 with the metadata that phones write."""
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata["com.apple.quicktime.camera.focal_length.35mm_equivalent"] = equivalent
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = WIDTH, HEIGHT - HEIGHT % 2
        rng = np.random.default_rng(0)
        for _ in range(4):
            picture = rng.integers(0, 255, (stream.height, stream.width, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def load(data: Path, tmp_path: Path, log: RunLog | None = None) -> Frames:
    select = FrameConfig(num_frames_target=0, on_cut="ignore")
    return load_frames(data, tmp_path / "store", select=select, geometry=ImageGeometry(), log=log or RunLog())


def recorded(data: Path, tmp_path: Path, log: RunLog | None = None) -> RecordedFocal:
    found = load(data, tmp_path, log).recorded_focal
    assert found is not None
    return found


@pytest.mark.parametrize("orientation", [1, 6])
def test_equivalent_is_by_the_diagonal_upright_or_not(tmp_path, orientation) -> None:
    found = recorded(photos(tmp_path / "in", [{EQUIVALENT: 26}] * 3, orientation), tmp_path)
    assert found.pixels == pytest.approx(26 * ACROSS / DIAGONAL) and found.equivalent_mm == 26
    assert found.origin == "EXIF" and found.sigma == PHOTO_SIGMA
    assert str(found) == "150 px from the file's EXIF (26 mm equivalent)"
    # A second run reads the stored frames, and the source still says the same.
    assert recorded(tmp_path / "in", tmp_path) == found


@pytest.mark.parametrize("unknown", [{}, {EQUIVALENT: 0}])
def test_focal_length_and_the_pixels_of_the_sensor(tmp_path, unknown) -> None:
    """In EXIF an equivalent of 0 means that it is not known."""
    tags = {FOCAL: IFDRational(5, 1), PLANE: IFDRational(1000, 1), UNIT: 3} | unknown
    found = recorded(photos(tmp_path / "in", [tags] * 2), tmp_path)
    assert found.pixels == pytest.approx(500) and found.equivalent_mm == pytest.approx(500 * DIAGONAL / ACROSS)


def test_resized_and_cropped_pictures() -> None:
    resized = photo_focal(LensTags(equivalent_mm=26, recorded_wh=(4000, 3000)), (150, 200))
    assert resized is not None and resized.pixels == pytest.approx(26 * 250 / DIAGONAL)
    cropped = photo_focal(LensTags(equivalent_mm=26, recorded_wh=(4000, 3000)), (3000, 3000))
    assert cropped is not None and cropped.pixels == pytest.approx(26 * 5000 / DIAGONAL)
    sensor = photo_focal(LensTags(focal_mm=5, pixels_per_mm=400, recorded_wh=(4000, 3000)), (400, 300))
    assert sensor is not None and sensor.pixels == pytest.approx(200)
    # Enlarged and of another shape: nobody knows by how much.
    assert photo_focal(LensTags(equivalent_mm=26, recorded_wh=(400, 300)), (900, 900)) is None


def test_digital_zoom() -> None:
    size = (4000, 3000)
    plain = 26 * 5000 / DIAGONAL
    contained = LensTags(equivalent_mm=52, focal_mm=4.25, pixels_per_mm=plain / 4.25, zoom=2.0)
    left_out = LensTags(equivalent_mm=26, focal_mm=4.25, pixels_per_mm=plain / 4.25, zoom=2.0)
    sensor_only = LensTags(focal_mm=4.25, pixels_per_mm=plain / 4.25, zoom=2.0)
    for tags in (contained, left_out, sensor_only):
        found = photo_focal(tags, size)
        assert found is not None and found.pixels == pytest.approx(2 * plain) and found.sigma == PHOTO_SIGMA
    unknown = photo_focal(LensTags(equivalent_mm=52, zoom=2.0), size)
    assert unknown is not None and unknown.pixels == pytest.approx(2 * plain) and unknown.sigma > 0.3


@pytest.mark.parametrize("value", [9, 65535])
def test_implausible_values_are_ignored_with_a_warning(tmp_path, value) -> None:
    log = RunLog()
    data = photos(tmp_path / "in", [{EQUIVALENT: value}] * 3)
    assert load(data, tmp_path, log).recorded_focal is None
    assert any("implausible" in text and f"{value:.3g} mm" in text for text in log.warnings)


def test_nonsense_in_the_tags_is_no_value(tmp_path) -> None:
    tags = {FOCAL: IFDRational(5, 0), PLANE: IFDRational(1000, 1), ZOOM: IFDRational(0, 1)}
    log = RunLog()
    assert load(photos(tmp_path / "in", [tags, {}]), tmp_path, log).recorded_focal is None
    assert not any("implausible" in text for text in log.warnings)
    (tmp_path / "text.jpg").write_text("no picture")
    assert read_tags(tmp_path / "text.jpg") == LensTags()


def test_photos_of_one_lens_and_of_two(tmp_path) -> None:
    log = RunLog()
    same = recorded(photos(tmp_path / "same", [{EQUIVALENT: mm} for mm in (26, 27, 26)]), tmp_path / "a", log)
    assert same.equivalent_mm == 26 and not any("different" in text for text in log.warnings)
    mixed = photos(tmp_path / "mixed", [{EQUIVALENT: mm} for mm in (26, 52, 26)])
    assert load(mixed, tmp_path / "b", log).recorded_focal is None
    assert any("26 to 52 mm" in text and "--align.no-shared-focal" in text for text in log.warnings)
    few = photos(tmp_path / "few", [{EQUIVALENT: 26}, {}, {}])
    assert load(few, tmp_path / "c").recorded_focal is None


def test_a_photo_that_says_nothing_does_not_count_against_the_others() -> None:
    focal = RecordedFocal(150.0, 26.0, "EXIF", 0.05)
    assert common_focal([focal, None, focal], (WIDTH, HEIGHT), RunLog()) == focal


@pytest.mark.parametrize("suffix", ["mov", "mp4"])
def test_quicktime_metadata(tmp_path, suffix) -> None:
    found = recorded(film(tmp_path / f"clip.{suffix}", "26"), tmp_path)
    assert found.pixels == pytest.approx(26 * ACROSS / DIAGONAL)
    assert found.origin == "QuickTime metadata" and found.sigma == VIDEO_SIGMA


@pytest.mark.parametrize("text", ["0", "1000000000", "wide"])
def test_quicktime_nonsense(tmp_path, text) -> None:
    log = RunLog()
    assert load(film(tmp_path / "clip.mov", text), tmp_path, log).recorded_focal is None
    assert any("implausible" in told for told in log.warnings) == (text != "wide")


def test_files_without_metadata_say_nothing(tmp_path) -> None:
    log = RunLog()
    assert load(photos(tmp_path / "in", [{}, {}]), tmp_path, log).recorded_focal is None
    assert not any("focal" in text for text in log.warnings)
