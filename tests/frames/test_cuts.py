"""Cuts: found where the scene changes, and not where the camera, the light or something in front of it does."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, InputError, OutputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, find_parts, load_frames
from easi3r_ns.frames.cuts import Cut, CutFinder, parts, same_scene, thumbnail
from easi3r_ns.frames.images import ImageFolder
from easi3r_ns.frames.video import Video
from easi3r_ns.pipelines import parts as parts_module
from easi3r_ns.pipelines import run
from easi3r_ns.pipelines.parts import process_parts
from easi3r_ns.storage.files import write_png
from easi3r_ns.storage.owned import claim
from easi3r_ns.training.scenes import (
    ClipOptions,
    SceneOptions,
    film,
    focal_from_fov,
    look_at,
    make_scene,
    render_clip,
)
from tests.examples.test_check_dataset import checker
from tests.support.helpers import shared_data

SIZE = (108, 192)
TINY = ImageGeometry(size=64, patch=8)
LENGTH = 16


@functools.lru_cache
def scene(seed: int, length: int = LENGTH) -> np.ndarray:
    return render_clip(seed, length, *SIZE, options=ClipOptions(fps=25)).images


def found(*clips: np.ndarray) -> tuple[Cut, ...]:
    finder = CutFinder()
    for index, image in enumerate(np.concatenate(clips)):
        finder.add(index, thumbnail(image))
    return finder.finish()


def dimmed(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.rint(images * weights[:, None, None, None]).astype(np.uint8)


# The finder


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(3, 8), (8, 5), (5, 3)])
def test_a_cut_is_found_at_its_frame(seeds):
    assert found(scene(seeds[0]), scene(seeds[1])) == (Cut(LENGTH - 1, LENGTH),)


def test_two_cuts_are_found():
    expected = (Cut(LENGTH - 1, LENGTH), Cut(2 * LENGTH - 1, 2 * LENGTH))
    assert found(scene(3), scene(8), scene(5)) == expected


def test_a_cut_near_either_end_is_found():
    assert found(scene(3)[:2], scene(8)) == (Cut(1, 2),)
    assert found(scene(3), scene(8)[:1]) == (Cut(LENGTH - 1, LENGTH),)


def test_a_frame_blended_across_the_cut_belongs_to_neither_side():
    blend = (scene(3)[-1:] // 2 + scene(8)[:1] // 2).astype(np.uint8)
    (cut,) = found(scene(3), blend, scene(8))
    assert cut.before in (LENGTH - 1, LENGTH) and cut.after in (LENGTH, LENGTH + 1) and cut.after > cut.before


def test_a_stray_frame_at_the_cut_belongs_to_neither_side():
    assert found(scene(3), scene(5)[:1], scene(8)) == (Cut(LENGTH - 1, LENGTH + 1),)


def test_one_scene_has_no_cut():
    for seed in (3, 8, 5):
        assert found(scene(seed)) == ()


@pytest.mark.parametrize("num_flashes", [1, 2])
def test_a_flash_is_no_cut(num_flashes):
    images = scene(3).copy()
    images[7 : 7 + num_flashes] = 250 - images[7 : 7 + num_flashes] // 8
    assert found(images) == ()


def test_lost_frames_are_no_cut():
    for value in (0, 128):
        images = scene(3).copy()
        images[6:10] = value
        assert found(images) == ()


def test_a_hand_before_the_lens_is_no_cut():
    images = scene(3).copy()
    images[6:8] = scene(8)[6:8]
    assert found(images) == ()


def test_a_fade_through_black_is_a_cut():
    fall, rise = np.linspace(1, 0, 8), np.linspace(0, 1, 8)
    leaving, coming = scene(3).copy(), scene(8).copy()
    leaving[-8:], coming[:8] = dimmed(leaving[-8:], fall), dimmed(coming[:8], rise)
    (cut,) = found(leaving, np.zeros((5, *SIZE, 3), np.uint8), coming)
    assert LENGTH - 4 <= cut.before < LENGTH and LENGTH + 5 <= cut.after < LENGTH + 9


def test_a_fade_and_back_is_no_cut():
    images = dimmed(scene(3), np.array([1] * 3 + [0.7, 0.4, 0.15, 0, 0, 0, 0.15, 0.4, 0.7] + [1] * 4))
    assert found(images) == ()


@pytest.mark.parametrize("degrees", [4.0, 12.0])
def test_a_fast_pan_is_no_cut(degrees):
    """The second one turns by half the field of view in one frame and shows another side of the room afterwards."""
    room = make_scene(3, SceneOptions("held_out", 0))
    turn = np.radians(np.concatenate([np.zeros(5), degrees * np.arange(1, 9), 8 * degrees + np.zeros(5)]))
    poses = np.stack([look_at(np.array([0, 0, 1.4]), np.array([np.cos(a), np.sin(a), 1.3])) for a in turn])
    times = np.arange(len(poses)) / 25
    clip = film(room, (), poses, focal_from_fov(55, *SIZE), SIZE, times)
    assert found(clip.images) == ()


def test_noise_and_unrelated_pictures_are_no_clip_with_cuts():
    rng = np.random.default_rng(0)
    assert found(rng.integers(0, 256, (12, *SIZE, 3), dtype=np.uint8)) == ()
    assert found(*(scene(seed)[:1] for seed in (3, 8, 5))) == ()


def test_pictures_without_features_are_no_witnesses():
    ramp = np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (8, SIZE[0], 1))
    assert found(np.repeat(ramp[..., None], 3, -1), scene(3)) == ()


def test_two_frames_have_no_cut():
    assert found(scene(3)[:1], scene(8)[:1]) == ()
    assert CutFinder().finish() == ()


@pytest.mark.parametrize("side", [20, 32])
def test_a_logo_is_no_common_scene(side):
    rng = np.random.default_rng(0)
    logo = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    clips = [scene(seed).copy() for seed in (3, 8)]
    for clip in clips:
        clip[:, 4 : 4 + side, 4 : 4 + side] = logo
    assert found(*clips) == (Cut(LENGTH - 1, LENGTH),)


def test_same_scene_wants_enough_features():
    nothing = np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    assert not same_scene(nothing, nothing, SIZE)


def test_the_finder_keeps_few_pictures():
    finder = CutFinder()
    for index in range(60):
        finder.add(index, thumbnail(scene(3)[index % LENGTH]))
    assert len(finder._recent) <= 20


def test_parts_are_what_lies_between():
    chosen = parts([2, 3, 5, 8, 9, 12], [Cut(3, 5), Cut(8, 12)])
    assert [part.tolist() for part in chosen] == [[2, 3], [5, 8], [12]]
    assert [part.tolist() for part in parts([4, 6], [])] == [[4, 6]]
    assert parts([], []) == ()


@pytest.mark.parametrize("name", ["blackswan", "car-shadow", "drift-chicane", "horsejump-high", "hololens", "rgbd5"])
@pytest.mark.parametrize("step", [1, 3])
def test_real_folders_have_no_cut(name, step):
    data = shared_data()
    where = {"hololens": "hololens/images", "rgbd5": "rgbd5/color"}.get(name, f"davis/JPEGImages/480p/{name}")
    folder, finder = ImageFolder(data / where), CutFinder()
    for index in range(0, len(folder.files), step):
        grey = cv2.imread(str(folder.files[index]), cv2.IMREAD_REDUCED_COLOR_2)
        finder.add(index, thumbnail(grey[..., ::-1]))
    assert finder.finish() == ()


@pytest.mark.parametrize("name", ["dog", "blocks"])
def test_real_videos_have_no_cut(name):
    video, finder = Video(shared_data() / "clips" / f"{name}.mp4"), CutFinder()
    times = video.times(FrameConfig(), RunLog())
    seen = list(video.read([len(times) - 1], RunLog(), finder.add))
    assert len(seen) == 1 and finder.finish() == () and finder.seen == tuple(range(len(times)))


# Through the entrance


def write_clip(path: Path, *clips: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "16", "bf": "2"})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for index, image in enumerate(np.concatenate(clips)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def cut_clip(tmp_path: Path) -> Path:
    """12 frames of one scene, 16 of another, 3 of a third."""
    return write_clip(tmp_path / "clip.mp4", scene(3)[:12], scene(8), scene(5)[:3])


def load(data: Path, tmp_path: Path, log: RunLog | None = None, **select):
    return load_frames(
        data, tmp_path / "store", select=FrameConfig(**select), geometry=TINY, log=log if log is not None else RunLog()
    )


def test_the_longest_part_is_used_and_said(cut_clip, tmp_path):
    log = RunLog()
    frames = load(cut_clip, tmp_path, log, num_frames_target=6)
    assert len(frames) == 6 and frames.indices[0] == 12 and frames.indices[-1] == 27
    assert frames.num_source_frames == 31
    (warning,) = log.warnings
    for words in ("0.48 s, 1.12 s", "of 3 parts", "0.48 to 1.08 s", "--start", "--on-cut split"):
        assert words in warning
    stored = [cv2.imread(str(path))[..., ::-1].astype(int) for path in frames.source_paths]
    assert np.abs(stored[0] - scene(8)[0]).mean() < 6 and np.abs(stored[-1] - scene(8)[-1]).mean() < 6


def test_resuming_says_it_again_and_reads_nothing(cut_clip, tmp_path, monkeypatch):
    first, log = load(cut_clip, tmp_path, num_frames_target=6), RunLog()
    monkeypatch.setattr(Video, "read", None)
    again = load(cut_clip, tmp_path, log, num_frames_target=6)
    np.testing.assert_array_equal(again.images, first.images)
    assert len(log.warnings) == 1 and "longest" in log.warnings[0]


@pytest.mark.parametrize("sharpest", [False, True])
def test_a_clip_without_cuts_is_decoded_once_and_once_more_for_the_sharpest(tmp_path, monkeypatch, sharpest):
    clip, reads = write_clip(tmp_path / "clip.mp4", scene(3)), []
    read = Video.read
    monkeypatch.setattr(Video, "read", lambda *args: reads.append(args) or read(*args))
    log = RunLog()
    frames = load(clip, tmp_path, log, num_frames_target=6, sharpest=sharpest, crop_bars=False)
    assert frames.indices.tolist() == [0, 3, 6, 9, 12, 15]
    assert len(reads) == 1 + sharpest and not log.warnings


def test_on_cut_fail_names_the_places_and_the_remedy(cut_clip, tmp_path):
    with pytest.raises(InputError, match=r"0\.48 s, 1\.12 s: --start and --end"):
        load(cut_clip, tmp_path, on_cut="fail")
    assert len(load(cut_clip, tmp_path, on_cut="fail", end=0.44)) == 12


def test_on_cut_ignore_uses_everything(cut_clip, tmp_path):
    log = RunLog()
    assert len(load(cut_clip, tmp_path, log, on_cut="ignore", num_frames_target=0)) == 31 and not log.warnings


def test_a_cut_outside_the_range_does_not_matter(cut_clip, tmp_path):
    log = RunLog()
    frames = load(cut_clip, tmp_path, log, start=0.6, end=1.0, num_frames_target=0)
    assert frames.indices.tolist() == list(range(15, 26)) and not log.warnings


def test_one_load_does_not_split(cut_clip, tmp_path):
    with pytest.raises(InputError, match="each part on its own"):
        load(cut_clip, tmp_path, on_cut="split")


def test_a_clip_of_two_frames_has_no_cut(tmp_path):
    clip, log = write_clip(tmp_path / "two.mp4", scene(3)[:1], scene(8)[:1]), RunLog()
    assert len(load(clip, tmp_path, log, on_cut="fail")) == 2 and not log.warnings


@pytest.fixture
def cut_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(np.concatenate([scene(3), scene(8)[:10]])):
        write_png(folder / f"{index}.png", image)
    return folder


@pytest.mark.parametrize("target", [0, 7])
def test_a_folder_is_cut_too(cut_folder, tmp_path, target):
    """Of 7 images, the cut lies somewhere between two: the ones in between show where."""
    log = RunLog()
    frames = load(cut_folder, tmp_path, log, num_frames_target=target)
    assert len(frames) == (target or LENGTH) and frames.indices[0] == 0 and frames.indices[-1] == LENGTH - 1
    assert f"image {LENGTH}" in log.warnings[0]


def test_skipped_frames_are_those_of_the_part_that_is_kept(cut_clip, tmp_path):
    frames = load(cut_clip, tmp_path, num_frames_target=6, pose_all_frames=True)
    assert sorted([*frames.indices, *frames.skipped.indices]) == list(range(12, 28))
    again = load(cut_clip, tmp_path, num_frames_target=6, pose_all_frames=True)
    for one, other in ((frames, again), (frames.skipped, again.skipped)):
        assert one.source_paths == other.source_paths and all(path.is_file() for path in one.source_paths)
        np.testing.assert_array_equal(one.indices, other.indices)
    assert load(cut_clip, tmp_path, num_frames_target=0, end=0.44, pose_all_frames=True).skipped is None


def test_find_parts_gives_their_times(cut_clip, cut_folder):
    found_parts = find_parts(cut_clip, FrameConfig(), RunLog())
    np.testing.assert_allclose(found_parts, [[0, 0.44, 12], [0.48, 1.08, 16], [1.12, 1.2, 3]], atol=1e-6)
    assert find_parts(cut_folder, FrameConfig(num_frames_target=6), RunLog()) == ((0, 15, 16), (16, 25, 10))


# One dataset per part


class Processed:
    """Stands in for a run and remembers what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: tuple[str, ...] = ()) -> None:
        self.calls, self.fails = [], fails
        monkeypatch.setattr(run, "process", self)

    def __call__(self, data, output_dir, config, *, overwrite, log, choice=None):
        self.calls.append((output_dir, config.frames))
        if output_dir.name in self.fails:
            raise AlignmentError("too little is static")
        log.warn(f"about {output_dir.name}")
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "transforms.json").touch()
        return SimpleNamespace(transforms_path=output_dir / "transforms.json")


def split(data: Path, out: Path, log: RunLog, **select):
    config = run.RunConfig(FrameConfig(on_cut="split", **select), Easi3RConfig(weights="tiny"))
    return process_parts(data, out, config, overwrite=False, log=log)


def test_every_part_becomes_a_dataset_and_short_ones_are_named(cut_clip, tmp_path, monkeypatch):
    runs, log = Processed(monkeypatch), RunLog()
    made = split(cut_clip, tmp_path / "out", log, num_frames_target=6)
    assert [folder.name for folder, _ in runs.calls] == ["part_01", "part_02"]
    assert [(f.start, f.end, f.on_cut, f.num_frames_target) for _, f in runs.calls] == [
        (0, 0.44, "ignore", 6),
        (0.48, 1.08, "ignore", 6),
    ]
    assert [part.log.warnings for part in made] == [["about part_01"], ["about part_02"]]
    assert len(log.warnings) == 1 and "part_03, 1.12 to 1.2 s is left out: it has 3 frames" in log.warnings[0]
    assert not (tmp_path / "out" / run.WORKSPACE).exists()


def test_an_earlier_dataset_does_not_stay_beside_the_parts(cut_clip, tmp_path, monkeypatch):
    Processed(monkeypatch)
    out = tmp_path / "out"
    for folder in (out, out / "part_07"):
        claim(folder, {"transforms.json", "masks/a.png"})
        (folder / "masks").mkdir(parents=True)
        for name in ("transforms.json", "masks/a.png", "notes.txt"):
            (folder / name).touch()
    with pytest.raises(OutputError, match="--overwrite"):
        split(cut_clip, out, RunLog())
    config = run.RunConfig(FrameConfig(on_cut="split"), Easi3RConfig(weights="tiny"))
    assert len(process_parts(cut_clip, out, config, overwrite=True, log=RunLog())) == 2
    assert (out / "part_01" / "transforms.json").exists()
    for folder in (out, out / "part_07"):
        assert (folder / "notes.txt").exists() and not (folder / "transforms.json").exists()
        assert not (folder / "masks").exists()


def test_a_part_that_fails_does_not_stop_the_others(cut_clip, tmp_path, monkeypatch):
    Processed(monkeypatch, fails=("part_01",))
    log = RunLog()
    (part,) = split(cut_clip, tmp_path / "out", log)
    assert part.result.transforms_path.parent.name == "part_02"
    assert any("part_01" in warning and "too little is static" in warning for warning in log.warnings)
    Processed(monkeypatch, fails=("part_01", "part_02"))
    with pytest.raises(AlignmentError):
        split(cut_clip, tmp_path / "out", RunLog())


def test_the_parts_of_an_interrupted_run_are_used_again(cut_clip, tmp_path, monkeypatch):
    Processed(monkeypatch, fails=("part_01", "part_02"))
    with pytest.raises(AlignmentError):
        split(cut_clip, tmp_path / "out", RunLog())
    monkeypatch.setattr(parts_module, "find_parts", None)
    runs = Processed(monkeypatch)
    assert len(split(cut_clip, tmp_path / "out", RunLog())) == 2 and len(runs.calls) == 2


class Interrupted(Processed):
    """Ctrl-C in the second part."""

    def __call__(self, data, output_dir, *rest, **options):
        if output_dir.name == "part_02":
            raise KeyboardInterrupt
        return super().__call__(data, output_dir, *rest, **options)


def test_an_interrupted_split_goes_on_where_it_stopped(cut_clip, tmp_path, monkeypatch):
    Interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        split(cut_clip, tmp_path / "out", RunLog())
    Processed(monkeypatch, fails=("part_02",))
    with pytest.raises(AlignmentError):
        split(cut_clip, tmp_path / "out", RunLog())
    runs = Processed(monkeypatch)
    (part,) = split(cut_clip, tmp_path / "out", RunLog())
    assert [folder.name for folder, _ in runs.calls] == ["part_02"]
    assert part.result.transforms_path.parent.name == "part_02"
    assert not (tmp_path / "out" / run.WORKSPACE).exists(), "another run starts afresh"


def test_a_finished_part_that_is_gone_is_made_again(cut_clip, tmp_path, monkeypatch):
    Interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        split(cut_clip, tmp_path / "out", RunLog())
    (tmp_path / "out" / "part_01" / "transforms.json").unlink()
    runs = Processed(monkeypatch)
    assert len(split(cut_clip, tmp_path / "out", RunLog())) == 2
    assert [folder.name for folder, _ in runs.calls] == ["part_01", "part_02"]


def test_other_options_are_another_run(cut_clip, tmp_path, monkeypatch):
    Interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        split(cut_clip, tmp_path / "out", RunLog(), num_frames_target=6)
    runs = Processed(monkeypatch)
    split(cut_clip, tmp_path / "out", RunLog(), num_frames_target=7)
    assert [folder.name for folder, _ in runs.calls] == ["part_01", "part_02"]


def test_splitting_a_clip_without_cuts_makes_one_dataset(tmp_path, monkeypatch):
    clip, runs, log = write_clip(tmp_path / "clip.mp4", scene(3)), Processed(monkeypatch), RunLog()
    (part,) = split(clip, tmp_path / "out", log)
    assert runs.calls == [(tmp_path / "out", FrameConfig(on_cut="ignore"))] and part.log is log


def test_evaluation_views_belong_to_one_scene(cut_clip, tmp_path):
    config = run.RunConfig(FrameConfig(on_cut="split"), eval_data=cut_clip)
    with pytest.raises(InputError, match="--eval-data"):
        process_parts(cut_clip, tmp_path / "out", config, overwrite=False, log=RunLog())
    assert not (tmp_path / "out").exists()


def test_other_choices_are_one_plain_run(cut_clip, tmp_path, monkeypatch):
    runs, log = Processed(monkeypatch), RunLog()
    config = run.RunConfig(replace(FrameConfig(), on_cut="fail"))
    (part,) = process_parts(cut_clip, tmp_path / "out", config, overwrite=False, log=log)
    assert runs.calls == [(tmp_path / "out", config.frames)] and part.log is log


@pytest.mark.slow
def test_two_scenes_become_two_datasets_with_every_frame(tmp_path):
    """The whole road with the small network: split at the cut, and frames in between posed in both parts."""
    clips = [render_clip(seed, 12, 180, 240, options=ClipOptions(fps=12)).images for seed in (3, 8)]
    folder, out, log = tmp_path / "images", tmp_path / "out", RunLog()
    folder.mkdir()
    for index, image in enumerate(np.concatenate(clips)):
        write_png(folder / f"{index:02d}.png", image)
    config = run.RunConfig(
        FrameConfig(num_frames_target=4, on_cut="split", pose_all_frames=True),
        Easi3RConfig(weights="tiny", device="cpu"),
        AlignConfig(flow_weight=0.0),
        DatasetConfig(num_downscales=0, report=False),
        RefineConfig("none"),
    )
    made = process_parts(folder, out, config, overwrite=False, log=log)
    assert [part.result.transforms_path for part in made] == [out / f"part_0{k}" / "transforms.json" for k in (1, 2)]
    for number, part in enumerate(made):
        meta = json.loads(part.result.transforms_path.read_text())
        assert [frame["frame_index"] for frame in meta["frames"]] == list(range(12 * number, 12 * number + 12))
        sources = [frame["pose_source"] for frame in meta["frames"]]
        assert sources.count("network") == 4 and sources.count("pnp") >= 4
        assert meta["easi3r"]["between"]["pnp"] == sources.count("pnp")
        report = checker.check_dataset(part.result.transforms_path.parent)
        assert report.ok(), str(report)
