"""Input of a run: a video file or a folder of images -> the frames that the network sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import FrameConfig
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.types import Frames, NearFrames, PixelMap, Sharpness, SkippedFrames, SourceCut
from ..core.workers import ordered
from ..storage.files import jsonable, make_folder, read_png
from . import store as frame_store
from .crop import find_cut
from .cuts import Cut, CutFinder, Watch, parts
from .focal import common_focal
from .images import ImageFolder
from .jobs import FrameJob, Kept
from .near import NEAR_SIDE, near_indices
from .preprocess import ImageGeometry, plan_preprocessing, resize_and_crop
from .scan import scan
from .select import FROZEN, ChosenFrames, choose_frames, choose_scanned, decided_by_pixels, inside_range
from .select import record as sharpness_record
from .select import say as say_choice
from .source import Source, open_selected, readable
from .sphere import VIEWS, cut_into_views, plan_views, refuse_options, shows_sphere
from .store import StoredClip, StoredFrame, StoredNear
from .video import Video

_DARK = 10
"""A clip without a brighter value (of 255) counts as black."""
_STILL = 3
"""Frames that differ by no more than this (of 255) count as equal: a lossy codec never repeats a frame exactly."""


def load_frames(
    data: Path,
    store: Path,
    *,
    select: FrameConfig,
    geometry: ImageGeometry,
    log: RunLog,
    like: PixelMap | None = None,
    kept: Kept = Kept(),
) -> Frames:
    """Frames of a video file or image folder ``data``: at network size in memory, at source size in ``store``.

    ``kept`` says how they are kept there.

    Source frames around them go into ``store`` too, in a small size: at most 8 for each.
    Frames in ``store`` are used again when source and selection are unchanged; the source itself is only read.
    ``select.square_ok`` and ``geometry.square_ok`` mean the same, either is enough. Time stamps of a folder count its
    images. ``like``: the map of a clip that these frames belong to; see :func:`~.crop.find_cut`.
    Frames that show everything around the camera are cut into views (:mod:`.sphere`).
    Raises InputError (unusable input, fewer than two frames) and OutputError (``store`` cannot be written).
    """
    geometry = replace(geometry, square_ok=geometry.square_ok or select.square_ok)
    source = open_selected(data, select)
    if not shows_sphere(data, source, select):
        return _load(source, store, select, geometry, log, like, kept)
    refuse_options(select)
    views = plan_views(_preview(data, source, select, RunLog())[2], select, data)
    whole = _load(
        source, store, replace(select, crop_bars=False), geometry, log, None, Kept(near_side=views.scaled_wh[0])
    )
    return cut_into_views(whole, views, geometry, store / VIEWS, log)


def _load(
    source: Source,
    store: Path,
    select: FrameConfig,
    geometry: ImageGeometry,
    log: RunLog,
    like: PixelMap | None,
    kept: Kept,
) -> Frames:
    """The frames as they are, not cut into views; arguments as for :func:`load_frames`."""
    key = jsonable({"source": source.signature(), "select": _selection_key(select), "like": like and asdict(like)})
    key |= {} if kept.near_side == NEAR_SIDE else {"near_side": kept.near_side}
    key |= {} if kept.suffix == ".png" else {"suffix": kept.suffix}
    make_folder(store)
    clip = frame_store.load(store, key)
    told = len(log.warnings)
    if isinstance(source, Video):
        source.keep_decoded(kept.decoded_bytes)
    look = None if clip is not None else _look(source, select, log)
    total = sum(frame.used for frame in clip.frames) if clip else select.num_frames_target or None
    with log.stage("frames", total) as advance:
        network = _NetworkImages(geometry, advance, kept)
        if clip is None:
            clip = _extract(source, store, select, network, log, look, like)
            if isinstance(source, Video):
                source.keep_decoded(0)
            clip = replace(clip, warnings=tuple(log.warnings[told:]))
            frame_store.save(store, key, clip)
        else:
            log.info(f"frames of an earlier run are used again ({store})")
            network.cut = clip.cut
            for message in clip.warnings:
                log.warn(message)
            used = [store / frame.file for frame in clip.frames if frame.used]
            network.of(read_png(used[0]))
            for image in ordered(lambda path: resize_and_crop(read_png(path), network.pixel_map), used):
                network.add(image)
    frames = _frames(clip, store, network)
    shown_wh = frames.pixel_map.picture_wh
    recorded = common_focal(source.focals(frames.indices.tolist(), shown_wh), shown_wh, log)
    frames = replace(frames, recorded_focal=recorded)
    _report(frames, source, log)
    return frames


def preview_source(data: Path, select: FrameConfig, geometry: ImageGeometry, log: RunLog) -> tuple[int, PixelMap]:
    """How many frames :func:`load_frames` would use, and their sizes; decodes a single one.

    Raises:
        InputError: as :func:`load_frames`.
    """
    source = open_selected(data, select)
    sphere = shows_sphere(data, source, select)
    if sphere:
        refuse_options(select)
    times, indices, wh = _preview(data, source, select, log)
    if sphere:
        views = plan_views(wh, select, data)
        square = replace(geometry, square_ok=True)
        return len(indices) * len(views.T_rig_view), plan_preprocessing((views.side, views.side), square)
    cut = find_cut(source, inside_range(times, select), select, RunLog())
    return len(indices), replace(plan_preprocessing(wh if cut is None else cut.wh, geometry), cut=cut)


def _preview(
    data: Path, source: Source, select: FrameConfig, log: RunLog
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Times of the frames of a source, the indices of those that would be used, and their size."""
    times = source.times(select, log)
    indices = _choose(times, select, source)
    if isinstance(source, ImageFolder):
        source.refuse_mixed(indices.tolist())
    image = next((image for _, image in source.read(indices[:1], log)), None)
    if image is None and source.shows_all:
        times = source.recount(log)
        indices = _choose(times, select, source)
        image = next((image for _, image in source.read(indices[:1], log)), None)
    if image is None:
        raise InputError(f"{data}: its first frame cannot be decoded: the clip is damaged, convert or replace it")
    return times, indices, (image.shape[1], image.shape[0])


class _NetworkImages:
    """Collects network-size images; the first image fixes the pixel map of the clip."""

    def __init__(self, geometry: ImageGeometry, advance: Callable[..., None], kept: Kept) -> None:
        self._geometry, self._advance, self.kept = geometry, advance, kept
        self.images: list[np.ndarray] = []
        self.pixel_map: PixelMap | None = None
        self.cut: SourceCut | None = None
        """What is cut off the frames of the source before they come here."""

    def of(self, image: np.ndarray) -> PixelMap:
        """The pixel map of the clip, which its first image decides."""
        if self.pixel_map is None:
            self.pixel_map = plan_preprocessing((image.shape[1], image.shape[0]), self._geometry)
            self.pixel_map = replace(self.pixel_map, cut=self.cut)
        return self.pixel_map

    def add(self, image: np.ndarray | None) -> None:
        """The next image, at network size; None: one that the network does not see."""
        if image is not None:
            self.images.append(image)
            self._advance(1)


def find_parts(data: Path, select: FrameConfig, log: RunLog) -> tuple[tuple[float, float, int], ...]:
    """(first, last time, number of frames) of the parts of a clip between its cuts, inside --start and --end.

    Decodes the clip once and keeps nothing of it. Raises InputError as :func:`load_frames`.
    """
    source = open_selected(data, select)
    with log.stage("cuts"):
        times = source.times(select, log)
        inside = inside_range(times, select)
        last = _choose(times, select, source)[-1:] if source.shows_all else _choose(times, select, source)
        finder = CutFinder()
        for _ in source.read(last.tolist(), log, _watch(finder, inside)):
            pass
        found = parts(inside, _cuts(source, finder, inside, log))
    return tuple((float(times[part[0]]), float(times[part[-1]]), len(part)) for part in found)


@dataclass(frozen=True)
class _Look:
    """What a look at the frames decided before any of them is written."""

    times: np.ndarray
    select: FrameConfig
    choice: ChosenFrames
    sharpness: tuple[tuple[float, float], ...]


def _look(source: Source, select: FrameConfig, log: RunLog) -> _Look | None:
    """Look at the frames where the choice depends on what they show; None: it does not."""
    if not decided_by_pixels(select):
        return None
    times = source.times(select, log)
    _choose(times, select, source)  # raises for a range without frames before anything is decoded
    seen = scan(source, inside_range(times, select), log)
    if len(seen.indices) < len(inside_range(times, select)):
        times = source.recount(log)
        seen = scan(source, inside_range(times, select), log)
    if seen.cuts and select.on_cut != "ignore":
        select = _between_cuts(times, seen.cuts, select, source, log)
    choice = choose_scanned(times, select, seen, source.unit)
    say_choice(choice, log)
    return _Look(times, select, choice, sharpness_record(times, seen, choice))


def _extract(
    source: Source,
    store: Path,
    select: FrameConfig,
    network: _NetworkImages,
    log: RunLog,
    look: _Look | None,
    like: PixelMap | None,
) -> StoredClip:
    """Decode the chosen frames into ``store``; choose again where some do not decode, and where the clip has cuts."""
    frame_store.clear(store)
    if look is not None:
        times, select = look.times, look.select
        network.cut = find_cut(source, inside_range(times, select), select, log, like)
        plan = _plan(times, select, source, look.choice.used)
        written = _write_frames(source, store, plan, network, log)
        return replace(_stored(source, store, times, plan, written), cut=network.cut, sharpness=look.sharpness)
    times = source.times(select, log)
    _choose(times, select, source)  # raises for a range without frames before anything is decoded
    network.cut = find_cut(source, inside_range(times, select), select, log, like)
    finder = None if select.on_cut == "ignore" else CutFinder()
    plan = _plan(times, select, source)
    written = _write_frames(source, store, plan, network, log, finder)
    if len(written.frames) < len(plan.read):
        times = source.recount(log)
        finder, plan = finder and CutFinder(), _plan(times, select, source)
        written = _write_frames(source, store, plan, network, log, finder)
    cuts = _cuts(source, finder, inside_range(times, select), log) if finder else ()
    if cuts:
        plan = _plan(times, _between_cuts(times, cuts, select, source, log), source)
        written = _write_frames(source, store, plan, network, log)
    return replace(_stored(source, store, times, plan, written), cut=network.cut)


def _stored(source: Source, store: Path, times: np.ndarray, plan: _Plan, written: _Written) -> StoredClip:
    if len(written.frames) < 2:
        raise InputError(f"only {len(written.frames)} frame can be decoded: the clip is damaged, convert or replace it")
    used = set(plan.used.tolist())
    frames = tuple(
        StoredFrame(file, (store / file).stat().st_size, index, float(times[index]), source.name(index), index in used)
        for index, file in written.frames.items()
    )
    near = tuple(StoredNear(file, (store / file).stat().st_size, index) for index, file in written.near.items())
    return StoredClip(frames, near, len(times), ())


@dataclass(frozen=True)
class _Plan:
    """Which frames the network sees, and which are read and kept."""

    used: np.ndarray
    read: np.ndarray
    near: np.ndarray
    """Frames of which a small copy is kept, see :func:`~.near.near_indices`."""


@dataclass
class _Written:
    """Index -> file of what could be read."""

    frames: dict[int, str]
    near: dict[int, str]


def _plan(times: np.ndarray, select: FrameConfig, source: Source, used: np.ndarray | None = None) -> _Plan:
    used, inside = _choose(times, select, source) if used is None else used, inside_range(times, select)
    return _Plan(used, inside if select.pose_all_frames else used, near_indices(used, inside))


def _choose(times: np.ndarray, select: FrameConfig, source: Source) -> np.ndarray:
    if len(times) < 2:
        raise InputError(f"the clip has {len(times)} frame: at least 2 are needed, from different viewpoints")
    return choose_frames(times, select, source.unit)


def _write_frames(
    source: Source,
    store: Path,
    plan: _Plan,
    network: _NetworkImages,
    log: RunLog,
    finder: CutFinder | None = None,
) -> _Written:
    """Write every frame of the plan that can be read. Threads resize and compress while decoding goes on."""
    written = _Written({}, {})
    network.images.clear()
    used, read, near = (set(indices.tolist()) for indices in (plan.used, plan.read, plan.near))
    watch = finder and _watch(finder, plan.read)
    frame_file = partial(frame_store.frame_file, suffix=network.kept.suffix)

    def jobs() -> Iterator[FrameJob]:
        decoded = read | near if source.shows_all else read
        for index, whole in source.read(sorted(decoded), log, watch):
            image = whole if network.cut is None else network.cut.of(whole)
            yield FrameJob(
                image,
                _entry(written.frames, index, frame_file) if index in read else None,
                _entry(written.near, index, frame_store.near_file) if index in near else None,
                network.of(image) if index in used else None,
                network.kept,
            )
        # One of another size that nobody asked for is no reason to stop.
        size = network.pixel_map and network.pixel_map.full_wh
        for index, image in readable(source, sorted(near - decoded), log):
            if image.shape[1::-1] == size:
                cut = image if network.cut is None else network.cut.of(image)
                yield FrameJob(cut, None, _entry(written.near, index, frame_store.near_file), None, network.kept)

    for image in ordered(lambda job: job.done(store), jobs()):
        network.add(image)
    written.near = dict(sorted(written.near.items()))
    return written


def _entry(files: dict[int, str], index: int, name: Callable[[int], str]) -> str:
    """The name of the next file, noted in ``files``."""
    files[index] = name(len(files))
    return files[index]


def _watch(finder: CutFinder, indices: np.ndarray) -> Watch:
    """A callback that hands the finder the frames from the first to the last of ``indices``."""

    def watch(index: int, thumb: np.ndarray) -> None:
        if indices[0] <= index <= indices[-1]:
            finder.add(index, thumb)

    return watch


def _cuts(source: Source, finder: CutFinder, inside: np.ndarray, log: RunLog) -> tuple[Cut, ...]:
    """The cuts of the clip.

    Where images of a folder were left out and the images around them have little in common, they are read as well.
    """
    gaps = [gap for gap in finder.weak if gap[1] - gap[0] > 1]
    if not source.shows_all and gaps:
        closer = CutFinder()
        seen = {*finder.seen, *(k for gap in gaps for k in inside.tolist() if gap[0] < k < gap[1])}
        for _ in source.read(sorted(seen), log, closer.add):
            pass
        finder = closer
    return finder.finish()


def _between_cuts(
    times: np.ndarray, cuts: tuple[Cut, ...], select: FrameConfig, source: Source, log: RunLog
) -> FrameConfig:
    """The selection inside the longest part; raises InputError where that is not what --on-cut asks for."""
    found = parts(inside_range(times, select), cuts)
    part = max(found, key=len)
    first, last = float(times[part[0]]), float(times[part[-1]])
    stamps = [_place(times[cut.after], source) for cut in cuts]
    where = f"the clip cuts to another scene at {', '.join(stamps[:10])}{', ...' if len(stamps) > 10 else ''}"
    remedy = "--start and --end choose a part, --on-cut split makes a dataset of each, --on-cut ignore uses all of it"
    if select.on_cut == "fail" or len(part) < 2:
        raise InputError(f"{where}: {remedy}")
    if select.on_cut == "split":
        raise InputError(f"{where}, and one dataset holds one scene: load each part on its own (find_parts)")
    log.warn(f"{where}; of {len(found)} parts the longest is used, {first:.4g} to {last:.4g} {source.unit} ({remedy})")
    return replace(select, start=first, end=last)


def _place(time: float, source: Source) -> str:
    return f"{time:.4g} s" if source.unit == "s" else f"image {time:.0f}"


def _frames(clip: StoredClip, store: Path, network: _NetworkImages) -> Frames:
    assert network.pixel_map is not None
    used = [frame for frame in clip.frames if frame.used]
    skipped = [frame for frame in clip.frames if not frame.used]
    return Frames(
        images=np.stack(network.images),
        pixel_map=network.pixel_map,
        num_source_frames=clip.num_source_frames,
        skipped=SkippedFrames(**_columns(skipped, store)) if skipped else None,
        sharpness=Sharpness(*np.array(clip.sharpness).T) if clip.sharpness else None,
        near=NearFrames(
            np.array([picture.index for picture in clip.near], dtype=np.int64),
            tuple(store / picture.file for picture in clip.near),
        ),
        **_columns(used, store),
    )


def _columns(frames: list[StoredFrame], store: Path) -> dict[str, Any]:
    return {
        "times": np.array([frame.time for frame in frames]),
        "indices": np.array([frame.index for frame in frames], dtype=np.int64),
        "names": tuple(frame.name for frame in frames),
        "source_paths": tuple(store / frame.file for frame in frames),
    }


def _selection_key(select: FrameConfig) -> dict[str, Any]:
    key = json.loads(json.dumps(asdict(select)))
    for name in ("square_ok", "projection", "equirect_views", "equirect_fov", "equirect_poles"):
        del key[name]
    return key


def _report(frames: Frames, source: Source, log: RunLog) -> None:
    used, total = len(frames), frames.num_source_frames
    width, height = frames.pixel_map.source_wh
    log.info(
        f"{used} of {total} frames are used ({frames.times[0]:.4g} to {frames.times[-1]:.4g} {source.unit}, "
        f"{width}x{height} -> {frames.images.shape[2]}x{frames.images.shape[1]} pixels)"
    )
    if frames.images.max() < _DARK:
        log.warn("the clip is black: no frame has a pixel brighter than 4 %; check the file")
    elif all(np.abs(image.astype(np.int16) - frames.images[0]).max() <= _STILL for image in frames.images[1:]):
        log.warn(FROZEN)
