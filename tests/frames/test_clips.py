"""Several clips of one scene: which they are, in which order, with how many frames, and filmed with which camera."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.end_to_end import end_to_end
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import network_to_source
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import PixelMap, SourceCut, on_side, upright_again
from easi3r_ns.frames import ImageGeometry, open_source
from easi3r_ns.frames.clips import (
    LEAST,
    clips_of,
    divided,
    in_order,
    load_clips,
    only_clip,
    parts_of,
    shares,
    unique_names,
)
from easi3r_ns.frames.recorded import of_video, recorded_of
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.several import all_clips

KEYS = {"make": "Apple", "model": "iPhone 15", "camera.focal_length.35mm_equivalent": "26"}


def film(path: Path, frames: int, size: tuple[int, int] = (64, 48), **said: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        for key, text in said.items():
            container.metadata[key if key == "creation_time" else f"com.apple.quicktime.{key}"] = text
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = size
        rng = np.random.default_rng(0)
        for _ in range(frames):
            picture = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def photo(path: Path, exif: dict[int, object] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = Image.Exif()
    tags[0x010F], tags[0x0110] = "Canon", "R5"
    tags.get_ifd(0x8769).update(exif or {})
    Image.new("RGB", (64, 48)).save(path, exif=tags)
    return path


def test_a_folder_or_pattern_of_videos_are_its_clips(tmp_path: Path) -> None:
    names = ["b_10.mp4", "b_2.MOV", "notes.txt", ".hidden.mp4"]
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    assert clips_of(folder) == (folder / "b_2.MOV", folder / "b_10.mp4")
    assert clips_of(folder / "b_1*.mp4") == (folder / "b_10.mp4",)
    assert clips_of(folder / "b_*") == (folder / "b_2.MOV", folder / "b_10.mp4")
    assert clips_of(folder / "b_2.MOV") == (folder / "b_2.MOV",) and clips_of(folder / "gone") == (folder / "gone",)
    (folder / "cover.jpg").touch()
    assert clips_of(folder) == (folder / "b_2.MOV", folder / "b_10.mp4")
    (folder / "a.jpg").touch()
    assert clips_of(folder) == (folder,)  # images, as before


def test_what_means_one_clip_is_found_by_the_same_rules(tmp_path: Path) -> None:
    (tmp_path / "b.ts").touch()
    assert only_clip(tmp_path, "--eval-data") == tmp_path / "b.ts" == clips_of(tmp_path)[0]
    config = replace(RunConfig(), eval_data=tmp_path)
    assert all_clips(Path("gone.mp4"), config)[1].eval_data == tmp_path / "b.ts"
    (tmp_path / "a.mp4").touch()
    with pytest.raises(InputError, match=r"--eval-data .* holds 2 videos \(a.mp4, b.ts\), and --eval-data means one"):
        all_clips(Path("gone.mp4"), config)


def test_names_tell_clips_apart() -> None:
    paths = [Path("/one/x/a.mp4"), Path("/two/x/a.mp4"), Path("/two/x/b.mp4")]
    assert unique_names(paths) == ("one/x/a.mp4", "two/x/a.mp4", "b.mp4")
    assert unique_names([Path("/x/a.mp4"), Path("/y/a.mp4")]) == ("x/a.mp4", "y/a.mp4")


def test_frames_are_divided_by_duration() -> None:
    assert divided(50, [10.0, 30.0, 10.0], [300, 900, 300]) == (10, 30, 10)
    assert divided(50, [1.0, 99.0], [30, 3000]) == (LEAST, 50 - LEAST)
    assert divided(50, [10.0, 10.0], [8, 300]) == (8, 42)  # no more than there are
    assert divided(50, [1.0, 1.0], [6, 7]) == (6, 7)
    assert divided(4, [1.0, 1.0, 1.0], [9, 9, 9]) == (2, 2, 2)


def test_shares_and_names_of_loaded_clips(tmp_path: Path) -> None:
    first = film(tmp_path / "one" / "clip.mp4", 30)
    second = film(tmp_path / "two" / "clip.mp4", 11, size=(96, 48))
    images = tmp_path / "stills"
    for k in range(3):
        photo(images / f"{k}.jpg")
    select, geometry = FrameConfig(num_frames_target=16, sharpest=False, on_cut="ignore"), ImageGeometry()
    assert shares(parts_of((first, second), replace(select, num_frames_target=20))) == (15, 5)  # 2.9 and 1.0 seconds
    clips = load_clips((first, second, images), tmp_path / "store", select=select, geometry=geometry, log=RunLog())
    assert [clip.name for clip in clips] == ["one/clip.mp4", "two/clip.mp4", "stills"]
    assert set(clips[0].frames.names) == {"one/clip.mp4"} and clips[2].frames.names[0] == "stills/0.jpg"
    assert [clip.frames.pixel_map.source_wh for clip in clips] == [(64, 48), (96, 48), (64, 48)]
    assert all(clip.frames.times[0] == 0 for clip in clips) and [clip.camera for clip in clips] == [0, 1, 2]
    assert sum(len(clip.frames) for clip in clips) == 16


@pytest.mark.parametrize(
    ("change", "size", "same"),
    [
        ({}, (64, 48), True),
        ({"model": "iPhone 12"}, (64, 48), False),
        ({"camera.focal_length.35mm_equivalent": "13"}, (64, 48), False),
        ({}, (96, 64), False),
        ({"make": "", "model": ""}, (64, 48), False),
    ],
)
def test_one_camera_where_the_files_say_so(tmp_path: Path, change: dict[str, str], size, same: bool) -> None:
    one = film(tmp_path / "a.mov", 4, **KEYS)
    other = film(tmp_path / "b.mov", 4, size, **{**KEYS, **change})
    select = FrameConfig(num_frames_target=0, on_cut="ignore", sharpest=False)
    clips = load_clips((one, other), tmp_path / "store", select=select, geometry=ImageGeometry(), log=RunLog())
    assert ([clip.camera for clip in clips] == [0, 0]) is same
    assert clips[0].recorded.device == "Apple iPhone 15"


def test_clips_are_in_the_order_of_their_recording(tmp_path: Path) -> None:
    late = film(tmp_path / "a.mov", 3, creationdate="2024-05-02T10:00:00+0200")
    early = film(tmp_path / "b.mov", 3, creation_time="2024-05-02T07:59:00.000000Z")
    silent = film(tmp_path / "c.mov", 3)
    assert in_order((late, early)) == (early, late)
    assert in_order((late, early, silent)) == (late, early, silent)
    with pytest.raises(InputError, match="given twice"):
        in_order((late, early, tmp_path / "x" / ".." / "a.mov"))


def test_recorded_of_videos_and_photos(tmp_path: Path) -> None:
    two = datetime(2024, 5, 2, 8, tzinfo=timezone.utc)
    assert of_video({"com.apple.quicktime.creationdate": "2024-05-02T10:00:00+0200"}).created == two
    said = of_video(
        {"com.android.manufacturer": "Google", "com.android.model": "Pixel 8", "creation_time": "1904-01-01"}
    )
    assert said.device == "Google Pixel 8" and said.created is None
    photo(tmp_path / "p" / "0.jpg", {0x9003: "2024:05:02 10:00:00", 0x9011: "+02:00"})
    photo(tmp_path / "p" / "1.jpg")
    found = recorded_of(open_source(tmp_path / "p"))
    assert found.created == two and found.device == "Canon R5"
    assert of_video({"creation_time": "yesterday"}).created is None


def test_times_end_to_end() -> None:
    times, clip = np.array([0.0, 0.5, 1.0, 0.0, 0.5, 3.0, 3.5]), np.array([0, 0, 0, 1, 1, 4, 4])
    assert end_to_end(times, clip).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert end_to_end(times, None) is times
    assert end_to_end(np.array([0.0, 0.0]), np.array([0, 1])).tolist() == [0.0, 1.0]


def test_pixels_of_pictures_on_their_side() -> None:
    upright = np.arange(6 * 8).reshape(6, 8)
    side = on_side(upright)
    assert side.shape == (8, 6) and (upright_again(side) == upright).all()
    cut = SourceCut((8, 6), (1, 2, 7, 6), (0, 2, 8, 6))
    assert (cut.turned().of(side) == on_side(cut.of(upright))).all()
    lying = PixelMap((80, 60), (40, 30), (4, 2, 36, 30))
    standing = lying.upright()
    assert standing.source_wh == (60, 80) and standing.network_wh == lying.network_wh[::-1]
    x, y = network_to_source(np.array([[3.0, 5.0]]), lying)[0]
    # The pixel (3, 5) of the lying grid is (height - 1 - 5, 3) of the standing one.
    assert np.allclose(network_to_source(np.array([[lying.network_wh[1] - 1 - 5.0, 3.0]]), standing), [[60 - y, x]])
