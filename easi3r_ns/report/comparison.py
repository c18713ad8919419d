"""``easi3r compare``: one page on which several datasets of one clip stand side by side.

The first dataset is the one that the others are compared with: their worlds are aligned to its own by a similarity of
the cameras, their masks and depths are laid on its grid of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .. import __version__
from ..core.errors import InputError
from ..core.scene import Scene, move_scene
from ..core.shared_frames import on_grid, shared_rows
from ..core.similarity import Similarity, align_cameras
from ..core.surface import trusted_depth
from ..storage.files import write_text
from ..view.cameras import CameraTrack, Viewpoint, camera_track, orbit, thumbnails
from ..view.clouds import build_clouds
from ..view.config import ViewConfig
from ..view.look import Look, Painter, first_look
from ..view.turntable import picture
from .contents import Chart, Picture
from .figures import Axes, Line, line_chart
from .measures import measure
from .page import template
from .pictures import DEPTH_MAP, colored, depth_range, jpeg_uri, outlined, panel_size, photo
from .sampling import evenly_spaced
from .verdict import judge
from .words import in_degrees, in_percent, percent, plain, when_of, x_label

MOST_DATASETS = 4
"""On one page: more do not fit beside each other."""
STYLES = ("s1", "s2", "s3", "s4")
VIDEO_SECONDS, VIDEO_FPS, VIDEO_ARC = 8, 12, 50.0
_ROUNDING = 1e-9
"""Of coordinates, from which on lengths and differences count."""
_ROWS = 4
"""Frames whose masks and depths are shown."""
_WIDTH = 420
"""Pixels of a picture of the page."""
_SCENE_WH = 560, 420
_CLOUDS = ViewConfig(max_static_points=150_000, max_moving_points=8_000)


@dataclass(frozen=True)
class Compared:
    """A dataset, laid on the first one."""

    name: str
    scene: Scene
    """In the world of the first one."""
    rows: np.ndarray
    """(N,) rows of the frames that all have."""
    masks: np.ndarray
    """(N, H, W) bool of these frames on the grid of the first one, before they are grown."""
    depth: np.ndarray
    """(N, H, W) float32 of these frames, in units of the first one; 0 where it is not known or not trusted."""

    @property
    def cameras(self) -> np.ndarray:
        """(N, 4, 4) camera-to-world of the shared frames."""
        return self.scene.T_world_cam[self.rows]


@dataclass(frozen=True)
class ComparisonPage:
    """Everything that the template shows."""

    names: tuple[str, ...]
    shared: str
    table: tuple[tuple[str, tuple[str, ...]], ...]
    """Lines of key figures: a title, and a value for each dataset."""
    scenes: tuple[Picture, ...]
    scenes_lead: str
    video: str
    """Name of the video beside the page; empty: there is none."""
    camera_charts: tuple[Chart, ...]
    mask_rows: tuple[tuple[Picture, ...], ...]
    mask_charts: tuple[Chart, ...]
    depth_rows: tuple[tuple[Picture, ...], ...]
    depth_charts: tuple[Chart, ...]
    timings: tuple[tuple[str, tuple[str, ...]], ...]
    version: str


def lay_together(names: Sequence[str], scenes: Sequence[Scene]) -> list[Compared]:
    """Several scenes of one clip in the world and on the grid of the first one.

    Raises:
        InputError: fewer than two or too many, or two frames that all have are missing.
    """
    if not 2 <= len(scenes) <= MOST_DATASETS:
        raise InputError(f"{len(scenes)} dataset(s): give 2 to {MOST_DATASETS} of the same clip")
    rows = shared_rows(scenes)
    if len(rows[0]) < 2:
        raise InputError(
            f"{' and '.join(names)} have {len(rows[0])} frame(s) in common (by source and index): compare datasets of "
            "the same clip"
        )
    first = scenes[0]
    result = []
    for name, scene, own in zip(names, scenes, rows, strict=True):
        if scene is not first:
            scene = move_scene(scene, _onto(first, rows[0], scene, own))
        depth = np.stack([trusted_depth(scene, row) for row in own]).astype(np.float32)
        maps = scene.pixel_map, first.pixel_map
        masks = on_grid(scene.dynamic.masks[own], *maps)
        result.append(Compared(name, scene, own, masks, on_grid(depth, *maps)))
    return result


def _onto(first: Scene, rows: np.ndarray, scene: Scene, own: np.ndarray) -> Similarity:
    """The similarity that lays a scene on the first one; by depth where cameras that stay tell no scale."""
    source, target = scene.T_world_cam[own], first.T_world_cam[rows]
    found = align_cameras(source, target)
    if min(_extent(source), _extent(target)) > 0:
        return found
    medians = []
    for one, chosen in ((scene, own), (first, rows)):
        depth = np.stack([trusted_depth(one, row) for row in chosen])
        medians.append(float(np.median(depth[depth > 0])) if (depth > 0).any() else 0.0)
    scale = medians[1] / medians[0] if min(medians) > 0 else 1.0
    before, after = (np.median(poses[:, :3, 3], axis=0) for poses in (source, target))
    return Similarity(scale, found.R, after - scale * found.R @ before)


def _extent(cameras: np.ndarray) -> float:
    """Length of the path of (N, 4, 4) cameras; 0 where it is no more than what rounding leaves."""
    places = cameras[:, :3, 3]
    length = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
    return length if length > _ROUNDING * np.abs(places).max(initial=1.0) else 0.0


def mask_agreement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of masks (N, H, W) bool; NaN where nothing moves in both."""
    union = (ours | theirs).sum(axis=(1, 2))
    both = (ours & theirs).sum(axis=(1, 2))
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)


def depth_difference(ours: np.ndarray, theirs: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(N,) median of |log(theirs / ours)| over the static pixels of depths (N, H, W) that both know; NaN if none."""
    out = np.full(len(ours), np.nan)
    for k in range(len(ours)):
        known = (ours[k] > 0) & (theirs[k] > 0) & ~masks[k]
        if known.any():
            out[k] = float(np.median(np.abs(np.log(theirs[k][known] / ours[k][known]))))
    return out


def write_comparison(
    datasets: Sequence[Compared], path: Path, video: str = "", advance: Callable[[int], None] = lambda steps: None
) -> None:
    """Write the page: one file that loads nothing from elsewhere.

    Args:
        video: name of the video beside it; empty: none.
        advance: called with 1 for each dataset whose scene is drawn.

    Raises:
        OutputError: the disk refuses.
    """
    write_text(path, template("comparison.html.jinja").render(page=comparison_page(datasets, video, advance)))


def comparison_page(datasets: Sequence[Compared], video: str, advance: Callable[[int], None]) -> ComparisonPage:
    """The contents of all sections."""
    first = datasets[0]
    shown = evenly_spaced(len(first.rows), _ROWS)
    moment = int(first.masks.mean(axis=(1, 2)).argmax())
    known = all((one.depth > 0).any() for one in datasets)
    return ComparisonPage(
        names=tuple(one.name for one in datasets),
        shared=f"{len(first.rows)} frames in common",
        table=tuple(_table(datasets)),
        scenes=tuple(_scene_pictures(datasets, moment, advance)),
        scenes_lead=(
            "What stands still, of all frames, and what moves, of one "
            f"({when_of(first.scene, int(first.rows[moment]))}), from one viewpoint in the world of {first.name}."
        ),
        video=video,
        camera_charts=tuple(_camera_charts(datasets)),
        mask_rows=tuple(_mask_row(datasets, k) for k in shown),
        mask_charts=tuple(_mask_charts(datasets)),
        depth_rows=tuple(_depth_row(datasets, k) for k in shown) if known else (),
        depth_charts=tuple(_depth_charts(datasets)) if known else (),
        timings=tuple(_timings(datasets)),
        version=__version__,
    )


def comparison_frames(datasets: Sequence[Compared]) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 frames of a video: all scenes beside each other from one viewpoint that swings, in step."""
    painted = [_Painted.of(one) for one in datasets]
    count, wh = VIDEO_SECONDS * VIDEO_FPS, (_SCENE_WH[0] // 2 * 2, _SCENE_WH[1] // 2 * 2)
    for number, view in enumerate(orbit(painted[0].track.home, VIDEO_ARC, count)):
        moment = number * len(datasets[0].rows) // count
        parts = [one.picture(moment, view, wh) for one in painted]
        yield np.hstack([_titled(part, one.compared.name) for part, one in zip(parts, painted, strict=True)])


@dataclass(frozen=True)
class _Painted:
    """A scene ready to be drawn."""

    compared: Compared
    painter: Painter
    track: CameraTrack
    images: list[np.ndarray]
    look: Look

    @staticmethod
    def of(one: Compared) -> _Painted:
        clouds = build_clouds(one.scene, _CLOUDS)
        look = replace(first_look(clouds, _CLOUDS), cameras="current")
        return _Painted(one, Painter.of(clouds), camera_track(one.scene), thumbnails(one.scene, False), look)

    def picture(self, moment: int, view: Viewpoint, wh: tuple[int, int]) -> np.ndarray:
        """(H, W, 3): the scene at the ``moment``-th shared frame."""
        look = replace(self.look, frame=int(self.compared.rows[moment]))
        return picture(self.painter, self.track, self.images, look, view, wh)


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    shown = image.copy()
    plain_title = title.encode("ascii", "replace").decode()
    cv2.putText(shown, plain_title, (12, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 48, 60), 1, cv2.LINE_AA)
    return shown


def _scene_pictures(datasets: Sequence[Compared], moment: int, advance: Callable[[int], None]) -> Iterator[Picture]:
    view = camera_track(datasets[0].scene).home
    for one in datasets:
        image = _Painted.of(one).picture(moment, view, (2 * _SCENE_WH[0], 2 * _SCENE_WH[1]))
        yield Picture(jpeg_uri(image, 82), f"Points and cameras of {one.name}", one.name)
        advance(1)


def _table(datasets: Sequence[Compared]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Title and values of each line."""
    first = datasets[0]
    path = _extent(first.cameras)

    def line(title: str, value: Callable[[Compared], str]) -> tuple[str, tuple[str, ...]]:
        return title, tuple(value(one) for one in datasets)

    def against(value: Callable[[Compared], str]) -> Callable[[Compared], str]:
        return lambda one: "-" if one is first else value(one)

    def distance(one: Compared) -> str:
        apart = np.median(np.linalg.norm(one.cameras[:, :3, 3] - first.cameras[:, :3, 3], axis=1))
        return f"{plain(_rounded(100 * apart / path))} % of the path" if path > 0 else "the camera stays"

    def overlap(one: Compared) -> str:
        values = mask_agreement(first.masks, one.masks)
        return f"{np.nanmean(values):.2f}" if np.isfinite(values).any() else "nothing moves"

    def depth(one: Compared) -> str:
        values = depth_difference(first.depth, one.depth, first.masks | one.masks)
        return f"{plain(_rounded(100 * float(np.nanmedian(values))))} %" if np.isfinite(values).any() else "not known"

    yield line("made by", lambda one: _maker(one.scene))
    yield line("verdict", lambda one: judge(measure(one.scene).measures).level.words)
    yield line("frames", lambda one: str(len(one.scene)))
    yield line("moves, of the picture", lambda one: percent(float(one.masks.mean())))
    yield line("focal length, of the width", lambda one: plain(_focal(one.scene)))
    yield line("depth known, of the picture", lambda one: percent(float((one.depth > 0).mean())))
    yield line("cameras apart, median", against(distance))
    yield line("cameras turned, median", against(lambda one: in_degrees(float(np.median(_turn(first, one))))))
    yield line("masks in common, mean IoU", against(overlap))
    yield line("static depth apart, median", against(depth))


def _maker(scene: Scene) -> str:
    imported = scene.provenance.get("imported")
    if imported:
        return f"{imported} (imported)"
    weights = (scene.provenance.get("weights") or {}).get("name") or "none"
    return f"easi3r-ns {scene.provenance.get('version') or ''} with --weights {weights}"


def _focal(scene: Scene) -> float:
    left, _, right, _ = scene.pixel_map.crop_box
    share = (right - left) / scene.pixel_map.resized_wh[0]
    return float(np.median(scene.focals)) / scene.pixel_map.network_wh[0] * share


def _turn(first: Compared, one: Compared) -> np.ndarray:
    """(N,) degrees between the orientations of the cameras."""
    apart = np.linalg.norm(first.cameras[:, :3, :3] - one.cameras[:, :3, :3], axis=(1, 2))
    return _rounded(np.degrees(2 * np.arcsin(np.clip(apart / np.sqrt(8), 0, 1))))


def _rounded(values: Any) -> Any:
    """Without the digits that rounding leaves of nothing."""
    return np.round(values, 6)


def _when(one: Compared) -> np.ndarray:
    """(N,) increasing places on an axis over time."""
    times = one.scene.times[one.rows]
    return times if (np.diff(times) > 0).all() else np.arange(len(times), dtype=float)


def _camera_charts(datasets: Sequence[Compared]) -> Iterator[Chart]:
    first, others = datasets[0], datasets[1:]
    x, label = _when(first), x_label(first.scene)
    origin = first.cameras[0, :3]
    unit = max(float(np.linalg.norm(np.ptp(first.cameras[:, :3, 3], axis=0))), 1e-9)
    for axis, name in enumerate(("right", "down", "forward")):
        lines = [
            Line(one.name, (one.cameras[:, :3, 3] - origin[:, 3]) @ origin[:, axis] / unit, style)
            for one, style in zip(datasets, STYLES)
        ]
        axes = Axes(label, plain, f"Camera position {name} over time", low=None)
        note = f"In the axes of the first camera of {first.name}, over the extent of its path."
        yield Chart(f"Position: {name}", line_chart(x, lines, axes), note)
    if _extent(first.cameras) > 0:
        apart = [
            Line(one.name, 100 * np.linalg.norm(one.cameras[:, :3, 3] - first.cameras[:, :3, 3], axis=1) / unit, style)
            for one, style in zip(others, STYLES[1:])
        ]
        axes = Axes(label, in_percent, "Distance between cameras over time")
        yield Chart(f"Distance to {first.name}", line_chart(x, apart, axes), "In percent of the extent of its path.")
    turns = [Line(one.name, _turn(first, one), style) for one, style in zip(others, STYLES[1:])]
    axes = Axes(label, in_degrees, "Angle between cameras over time", least_high=0.1)
    yield Chart(f"Turned against {first.name}", line_chart(x, turns, axes), "Degrees.")


def _mask_charts(datasets: Sequence[Compared]) -> Iterator[Chart]:
    first = datasets[0]
    x, label = _when(first), x_label(first.scene)
    lines = [Line(one.name, 100 * one.masks.mean(axis=(1, 2)), style) for one, style in zip(datasets, STYLES)]
    axes = Axes(label, in_percent, "Masked share of each frame", least_high=5.0)
    yield Chart("Masked part of the picture", line_chart(x, lines, axes))
    lines = [
        Line(one.name, mask_agreement(first.masks, one.masks), style) for one, style in zip(datasets[1:], STYLES[1:])
    ]
    axes = Axes(label, plain, "Intersection over union of the masks over time", least_high=1.0)
    yield Chart(
        f"Agreement with {first.name}",
        line_chart(x, lines, axes),
        "Intersection over union of the masks; gaps where nothing moves in both.",
    )


def _mask_row(datasets: Sequence[Compared], k: int) -> tuple[Picture, ...]:
    first = datasets[0]
    image = photo(first.scene, int(first.rows[k]), panel_size(first.scene, _WIDTH))
    when = when_of(first.scene, int(first.rows[k]))
    return tuple(
        Picture(
            jpeg_uri(outlined(image, one.masks[k]), 76),
            f"What moves in {one.name}",
            f"{one.name}, {when}, {percent(float(one.masks[k].mean()))}",
        )
        for one in datasets
    )


def _depth_row(datasets: Sequence[Compared], k: int) -> tuple[Picture, ...]:
    near, far = depth_range(datasets[0].scene)
    pictures = []
    for one in datasets:
        with np.errstate(divide="ignore"):
            nearness = np.where(one.depth[k] > 0, -np.log(one.depth[k]), np.nan)
        image = colored(nearness, -np.log(far), -np.log(near), DEPTH_MAP)
        pictures.append(Picture(jpeg_uri(image, 85), f"Depth of {one.name}", one.name))
    return tuple(pictures)


def _depth_charts(datasets: Sequence[Compared]) -> Iterator[Chart]:
    first = datasets[0]
    lines = [
        Line(one.name, 100 * depth_difference(first.depth, one.depth, first.masks | one.masks), style)
        for one, style in zip(datasets[1:], STYLES[1:])
    ]
    axes = Axes(x_label(first.scene), in_percent, "Difference of the static depth over time")
    note = "Median over the static pixels that both know, after one scale for the whole clip."
    yield Chart(f"Depth against {first.name}", line_chart(_when(first), lines, axes), note)


def _timings(datasets: Sequence[Compared]) -> Iterator[tuple[str, tuple[str, ...]]]:
    stages = [one.scene.provenance.get("stages") or () for one in datasets]
    if not any(stages):
        return
    yield "time", tuple(f"{sum(s['seconds'] for s in own):.0f} s" if own else "not recorded" for own in stages)
    cpu = (f"{sum(s['cpu_seconds'] for s in own):.0f} s" if own else "not recorded" for own in stages)
    yield "processor time", tuple(cpu)
    peak = (f"{max(s['peak_memory_bytes'] for s in own) / 2**30:.2f} GiB" if own else "not recorded" for own in stages)
    yield "memory, peak", tuple(peak)
