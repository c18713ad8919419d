"""Check a nerfstudio dataset with motion masks, depth maps and a static point cloud, without the code that wrote it.

    python examples/check_dataset.py OUT [--truth DIR]

Prints one line per check with the measured number and its limit; exits with 0 when all pass, else 1. It judges
conventions (axes, half pixels, polarity, units, frames of reference), not the quality of the reconstruction: static
points are compared with the frame whose depth map they agree with best. ``--truth DIR`` adds the errors against
``DIR/gt_cameras.json`` or ``DIR/truth.json`` (camera-to-world, OpenCV axes) and ``DIR/masks/*.png`` (white = moving)
when they are there, without judging them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open3d

DEPTH_STEP = 0.001
MAX_POINTS = 20_000
KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "transform_matrix", "time", "frame_index", "source")
FLIP = np.diag([1.0, -1.0, -1.0])


@dataclass
class Report:
    """Lines of the table."""

    rows: list[tuple[str, str, str, bool | None]] = field(default_factory=list)

    def add(self, name: str, measured: Any, limit: str, passed: bool | None) -> None:
        text = f"{measured:.4g}" if isinstance(measured, float) else str(measured)
        self.rows.append((name, text, limit, None if passed is None else bool(passed)))

    def at_most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self.add(name, f"{value:.4g}{unit}", f"<= {limit:g}{unit}", np.isfinite(value) and value <= limit)

    def at_least(self, name: str, value: float, limit: float) -> None:
        self.add(name, f"{value:.4g}", f">= {limit:g}", np.isfinite(value) and value >= limit)

    def ok(self) -> bool:
        return all(passed is not False for *_, passed in self.rows)

    def failed(self) -> list[str]:
        return [name for name, *_, passed in self.rows if passed is False]

    def __str__(self) -> str:
        marks = {True: "ok  ", False: "FAIL", None: "info"}
        return "\n".join(f"{marks[p]}  {name:<42} {value:>24}  {limit}" for name, value, limit, p in self.rows)


@dataclass(frozen=True)
class Frame:
    """One entry of transforms.json."""

    image: Path
    mask: Path | None
    depth: Path | None
    cloud: Path | None
    c2w: np.ndarray
    K: np.ndarray
    """fl_x, fl_y, cx, cy; the centre of the first pixel is (0.5, 0.5)."""
    distortion: np.ndarray
    """k1, k2, p1, p2 of OpenCV's lens model; images, masks and depth maps are distorted."""
    size: tuple[int, int]
    time: float
    index: int
    held_out: bool
    """An evaluation view from another recording, with its own clock."""

    def project(self, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) world points -> (N, 2) pixels and (N,) z-depth (OpenGL camera: z points backward)."""
        local = (world - self.c2w[:3, 3]) @ self.c2w[:3, :3] @ FLIP
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.K[:2] * self._distort(local[:, :2] / local[:, 2:]) + self.K[2:], local[:, 2]

    def lift(self, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """(N, 2) pixels with z-depth -> (N, 3) world points."""
        seen = (xy - self.K[2:]) / self.K[:2]
        ideal = seen
        for _ in range(20 if self.distortion.any() else 0):
            ideal = ideal + seen - self._distort(ideal)
        local = np.concatenate([ideal, np.ones((len(xy), 1))], axis=1) * depth[:, None]
        return local @ FLIP @ self.c2w[:3, :3].T + self.c2w[:3, 3]

    def _distort(self, xy: np.ndarray) -> np.ndarray:
        k1, k2, p1, p2 = self.distortion
        x, y = xy.T
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2
        shift = 2 * p1 * x * y + p2 * (r2 + 2 * x**2), p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        return np.stack([x * radial + shift[0], y * radial + shift[1]], axis=1)


def check_dataset(folder: Path, truth: Path | None = None) -> Report:
    """All checks of one dataset folder."""
    report = Report()
    meta = _read_meta(folder, report)
    if meta is None:
        return report
    frames = _frames(folder, meta, report)
    if frames is None or not check_files(frames, report):
        return report
    check_cameras(meta, frames, report)
    check_masks(frames, report)
    check_downscales(frames, report)
    check_points(folder, meta, frames, report)
    check_depth_between_views(frames, report)
    if truth is not None:
        compare_with_truth(frames, truth, report)
    return report


def _read_meta(folder: Path, report: Report) -> dict[str, Any] | None:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        meta = json.loads((folder / "transforms.json").read_text(), parse_constant=refuse)
    except (OSError, ValueError) as error:
        report.add("transforms.json is strict JSON", str(error)[:60], "readable", False)
        return None
    report.add("transforms.json is strict JSON", "yes", "readable", True)
    return meta


def _frames(folder: Path, meta: dict[str, Any], report: Report) -> list[Frame] | None:
    def path(entry: dict[str, Any], key: str) -> Path | None:
        return folder / entry[key] if key in entry else None

    frames = []
    for entry in meta["frames"]:
        values = {**meta, **entry}
        missing = [key for key in KEYS if key not in values]
        if missing:
            report.add("every frame is complete", f"{entry.get('file_path')}: no {missing[0]}", "all keys", False)
            return None
        frames.append(
            Frame(
                folder / entry["file_path"],
                path(entry, "mask_path"),
                path(entry, "depth_file_path"),
                path(entry, "dynamic_ply_path"),
                np.array(entry["transform_matrix"], dtype=float),
                np.array([values[k] for k in ("fl_x", "fl_y", "cx", "cy")], dtype=float),
                np.array([values.get(k, 0) for k in ("k1", "k2", "p1", "p2")], dtype=float),
                (int(values["w"]), int(values["h"])),
                float(entry["time"]),
                int(entry["frame_index"]),
                "train_filenames" in meta and entry["file_path"] not in meta["train_filenames"],
            )
        )
    report.add("frames", len(frames), ">= 2", len(frames) >= 2)
    return frames if len(frames) >= 2 else None


def check_files(frames: list[Frame], report: Report) -> bool:
    """Existence, all-or-none, order, sizes at full and at reduced size. False when nothing more can be checked."""
    for kind in ("mask", "depth"):
        count = sum(getattr(frame, kind) is not None for frame in frames)
        report.add(f"{kind}s for all frames or none", count, f"0 or {len(frames)}", count in (0, len(frames)))
    names = [str(frame.image) for frame in frames]
    report.add(
        "file names sort in the order of frames",
        "yes" if names == sorted(names) else "no",
        "yes",
        names == sorted(names) and len(set(names)) == len(names),
    )
    pairs = [(a, b) for a, b in zip(frames, frames[1:]) if a.held_out == b.held_out]
    steps = [(b.time - a.time, b.index - a.index) for a, b in pairs]
    report.add(
        "time and frame_index increase",
        f"{min(s[0] for s in steps):.3g} s, {min(s[1] for s in steps)}",
        "> 0",
        min(min(step) for step in steps) > 0,
    )
    wrong, count = [], 0
    for factor in (1, *_factors(frames)):
        for frame in frames:
            size = tuple(side // factor for side in frame.size)
            for path in (_at(frame.image, factor), _at(frame.mask, factor), _at(frame.depth, factor)):
                if path is not None:
                    count += 1
                    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
                    if image is None or (image.shape[1], image.shape[0]) != size:
                        wrong.append(f"{path.parent.name}/{path.name}")
    report.add("files of the right size", f"not {wrong[0]}" if wrong else count, str(count), not wrong)
    return report.ok()


def check_cameras(meta: dict[str, Any], frames: list[Frame], report: Report) -> None:
    """Rigid poses, sensible intrinsics, applied_transform."""
    poses = np.stack([frame.c2w for frame in frames])
    R = poses[:, :3, :3]
    error = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max() + np.abs(poses[:, 3] - [0, 0, 0, 1]).max()
    report.at_most("poses are rigid: error of R R^T", float(error), 1e-4)
    report.at_least("poses are rigid: det R", float(np.linalg.det(R).min()), 0.999)
    K, size = np.stack([frame.K for frame in frames]), np.array(frames[0].size)
    report.at_least("focal lengths / long side", float(K[:, :2].min() / size.max()), 0.1)
    report.at_most("fl_x and fl_y differ by", float(np.abs(K[:, 0] / K[:, 1] - 1).max()), 0.02)
    report.at_most("principal point from the centre / side", float(np.abs(K[:, 2:] / size - 0.5).max()), 0.25)
    applied = np.array(meta.get("applied_transform", np.zeros((3, 4))), dtype=float)
    report.at_least("applied_transform: det", float(np.linalg.det(applied[:, :3])), 0.999)


def check_masks(frames: list[Frame], report: Report) -> None:
    """One channel, 0 and 255 only."""
    if frames[0].mask is None:
        return
    odd, moving = [], []
    for frame in frames:
        mask = cv2.imread(str(frame.mask), cv2.IMREAD_UNCHANGED)
        if mask.ndim != 2 or mask.dtype != np.uint8 or not np.isin(mask, (0, 255)).all():
            odd.append(frame.mask.name)
        moving.append(float((mask == 0).mean()))
    report.add("masks: one channel of 0 and 255", odd[0] if odd else "yes", "yes", not odd)
    report.add("masks: share of moving (black) pixels", float(np.mean(moving)), "", None)


def check_downscales(frames: list[Frame], report: Report) -> None:
    """Reduced copies show the same: images by mean, masks without a moving pixel lost, depth within a few percent."""
    for factor in _factors(frames):
        image_error, lost, depth_error = [], 0, []
        for frame in frames[:: max(1, len(frames) // 5)]:
            full, small = cv2.imread(str(frame.image)), cv2.imread(str(_at(frame.image, factor)))
            image_error.append(np.abs(_blocks(full, factor).mean(axis=(1, 3)) - small).mean())
            if frame.mask is not None:
                moving = (_blocks(cv2.imread(str(frame.mask), 0), factor) == 0).any(axis=(1, 3))
                lost += int((moving & (cv2.imread(str(_at(frame.mask, factor)), 0) > 0)).sum())
            if frame.depth is not None:
                full, small = (cv2.imread(str(_at(frame.depth, k)), -1).astype(float) for k in (1, factor))
                full = _blocks(full, factor)
                unsure = (full == 0).any(axis=(1, 3)) | (small == 0)
                off = np.maximum(full.min(axis=(1, 3)) - small, small - full.max(axis=(1, 3)))[~unsure]
                depth_error.append((np.maximum(off - 1, 0) / full.mean(axis=(1, 3))[~unsure]).max(initial=0))
        report.at_most(f"images_{factor} against images: mean difference", float(np.mean(image_error)), 2.0)
        report.at_most(f"masks_{factor}: moving pixels lost", lost, 0)
        if depth_error:
            report.at_most(f"depths_{factor}: outside of what they cover", float(np.max(depth_error)), 0.05)


@dataclass
class _Best:
    """Per static point: what was seen in the frame whose depth map it agrees with best."""

    error: np.ndarray
    """(N,) relative difference of depth, infinite where the point is in no image."""
    frame: np.ndarray
    xy: np.ndarray
    """(N, 2) pixels."""
    static: np.ndarray


def check_points(folder: Path, meta: dict[str, Any], frames: list[Frame], report: Report) -> None:
    """Do the static points lie where the images show their colour, the depth maps their depth, the masks white?"""
    if "ply_file_path" not in meta and all(frame.depth is None for frame in frames):
        return  # a camera that stays in its place shows no points, and there is no depth that would give any
    cloud = _read_ply(folder / meta.get("ply_file_path", "none"))
    points, colors = np.asarray(cloud.points), np.asarray(cloud.colors) * 255
    report.at_least("static points", len(points), 50)
    if len(points) < 50 or len(colors) != len(points) or not np.isfinite(points).all():
        report.add("static points are finite and coloured", "no", "yes", False)
        return
    keep = np.random.default_rng(0).permutation(len(points))[:MAX_POINTS]
    points, colors = points[keep], colors[keep]
    best = _best_views(frames, points)
    seen = np.isfinite(best.error)
    report.at_least("static points: share that is in an image", float(seen.mean()), 0.95)
    if seen.sum() < 50:
        return
    if frames[0].depth is not None:
        report.at_most("static points against depth: median error", float(np.median(best.error[seen])), 0.03)
    best, colors = _Best(best.error[seen], best.frame[seen], best.xy[seen], best.static[seen]), colors[seen]
    check_colors(frames, best, colors, report)
    if frames[0].mask is not None:
        report.at_least("static points: share on white mask", float(best.static.mean()), 0.8)
        _check_moving_clouds(frames, report)


def _best_views(frames: list[Frame], points: np.ndarray) -> _Best:
    n = len(points)
    best = _Best(np.full(n, np.inf), np.zeros(n, int), np.zeros((n, 2)), np.ones(n, dtype=bool))
    for number, frame in enumerate(frames):
        xy, z = frame.project(points)
        width, height = frame.size
        inside = (z > 0) & (xy > 0.5).all(axis=1) & (xy < [width - 0.5, height - 0.5]).all(axis=1)
        column, row = (np.floor(np.where(inside, xy[:, k], 0)).astype(int) for k in (0, 1))
        error = np.where(inside, 0.0, np.inf)
        if frame.depth is not None:
            depth = cv2.imread(str(frame.depth), cv2.IMREAD_UNCHANGED)[row, column] * DEPTH_STEP
            error = np.where(inside & (depth > 0), np.abs(z - depth) / np.maximum(depth, 1e-9), np.inf)
        better = error < best.error
        best.error[better], best.frame[better], best.xy[better] = error[better], number, xy[better]
        if frame.mask is not None:
            best.static[better] = cv2.imread(str(frame.mask), 0)[row[better], column[better]] > 0
    return best


def check_colors(frames: list[Frame], best: _Best, colors: np.ndarray, report: Report) -> None:
    """Colours at the points' pixels, and the shift and zoom that would bring them closer: half a pixel shows.

    The points carry the colours of smaller images: of several blurs of ours the one that fits best is compared.
    """
    scale = max(frames[0].size) / 640
    views = [_sampled(frames, best, sigma * scale) for sigma in (0.5, 1.0, 2.0, 4.0)]
    differences = [np.abs(view[0] - colors).mean(axis=1) for view in views]
    difference, (color, gradient) = min(zip(differences, views), key=lambda pair: np.median(pair[0]))
    by_chance = np.abs(color - np.roll(colors, 1, axis=0)).mean(axis=1)
    report.at_most("static points: median colour difference", float(np.median(difference)), 20)
    # A picture in a few flat colours agrees with anything: without contrast there is nothing to compare with.
    if np.median(by_chance) > 10:
        report.at_most("the same / that of random pairs", float(np.median(difference) / np.median(by_chance)), 0.5)
    near = difference < max(40, 2 * np.median(difference))
    principal = np.stack([frame.K[2:] for frame in frames])[best.frame]
    left, patch = (colors - color)[near], _patches(frames, best)[near]
    shift, shift_error = _misfit(gradient[near], left, patch)
    # The offset from the principal point takes the place of a shift of 1: the answer is a relative zoom.
    zoom, zoom_error = _misfit(gradient[near] * (best.xy - principal)[near][:, None], left, patch)
    corner = 0.5 * float(np.hypot(*frames[0].size))
    # Few or flat points say little: only what exceeds their own scatter counts.
    report.at_most("images against points: shift beyond scatter", max(shift - 3 * shift_error, 0), 0.3, " px")
    report.at_most("images against points: zoom beyond scatter", max(zoom - 3 * zoom_error, 0) * corner, 1.5, " px")
    for name, value, scatter in (("shift", shift, shift_error), ("zoom", zoom * corner, zoom_error * corner)):
        report.add(f"  ({name} and its scatter)", f"{value:.3g} +- {scatter:.2g} px", "", None)


def _sampled(frames: list[Frame], best: _Best, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) colours and (N, 3, 2) gradients per pixel of the blurred images at the points' pixels."""
    color, gradient = np.zeros((len(best.xy), 3)), np.zeros((len(best.xy), 3, 2))
    for number in np.unique(best.frame):
        mine = best.frame == number
        image = cv2.imread(str(frames[number].image))[..., ::-1].astype(np.float32)
        image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        where = (best.xy[mine] - 0.5).astype(np.float32)
        color[mine] = _sample(image, where)
        for axis, step in enumerate(np.eye(2, dtype=np.float32)):
            gradient[mine, :, axis] = (_sample(image, where + step) - _sample(image, where - step)) / 2
    return color, gradient


def _patches(frames: list[Frame], best: _Best) -> np.ndarray:
    """(N,) one of 12 groups for every point; neighbours share a group, since their errors are alike."""
    cell = np.floor(best.xy / (max(frames[0].size) / 8)).astype(int)
    return (7 * cell[:, 0] + 13 * cell[:, 1] + 29 * best.frame) % 12


def _misfit(gradient: np.ndarray, difference: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Length of the (x, y) step along the gradients that brings the points' colours closest to the images.

    With its scatter, from leaving out one group of points at a time (jackknife). One robust Gauss step.
    """
    weight = np.ones(difference.shape)

    def solve(keep: np.ndarray) -> np.ndarray:
        w = weight[keep].reshape(-1, 1)
        return np.linalg.lstsq(gradient[keep].reshape(-1, 2) * w, difference[keep].reshape(-1) * w[:, 0], rcond=None)[0]

    for _ in range(5):
        step = solve(np.ones(len(gradient), dtype=bool))
        weight = np.sqrt(4.0 / np.maximum(np.abs(difference - gradient @ step), 4.0))
    groups = np.unique(group)
    left_out = np.stack([solve(group != g) for g in groups])
    scatter = np.sqrt((len(groups) - 1) * left_out.var(axis=0)) if len(groups) > 3 else np.full(2, np.inf)
    return float(np.hypot(*step)), float(np.hypot(*scatter))


def _check_moving_clouds(frames: list[Frame], report: Report) -> None:
    on_black = total = 0
    for frame in frames:
        if frame.cloud is None:
            continue
        points = np.asarray(_read_ply(frame.cloud).points)
        if not len(points):
            continue
        xy, z = frame.project(points)
        inside = (z > 0) & (xy >= 0).all(axis=1) & (xy < frame.size).all(axis=1)
        column, row = np.floor(xy[inside]).astype(int).T
        on_black += int((cv2.imread(str(frame.mask), 0)[row, column] == 0).sum())
        total += len(points)
    if total:
        report.at_least("moving points: share on black mask", on_black / total, 0.95)


def check_depth_between_views(frames: list[Frame], report: Report) -> None:
    """Depth of one frame, carried a third of the clip on, against the depth map there: quality, so not judged."""
    if frames[0].depth is None:
        return
    errors, rng = [np.zeros(0)], np.random.default_rng(0)
    frames = [frame for frame in frames if cv2.imread(str(frame.depth), cv2.IMREAD_UNCHANGED).any()]
    step = max(1, len(frames) // 3)
    for a, b in list(zip(frames, frames[step:]))[:: max(1, len(frames) // 8)]:
        depth, other = (cv2.imread(str(frame.depth), cv2.IMREAD_UNCHANGED) * DEPTH_STEP for frame in (a, b))
        static = np.ones(depth.shape, bool) if a.mask is None else cv2.imread(str(a.mask), 0) > 0
        rows, columns = np.nonzero((depth > 0) & static)
        pick = rng.permutation(len(rows))[:3000]
        world = a.lift(np.stack([columns, rows], axis=1)[pick] + 0.5, depth[rows, columns][pick])
        xy, z = b.project(world)
        inside = (z > 0) & (xy >= 0).all(axis=1) & (xy < b.size).all(axis=1)
        column, row = np.floor(xy[inside]).astype(int).T
        seen = other[row, column]
        errors.append((np.abs(z[inside] - seen) / np.maximum(seen, 1e-9))[seen > 0])
    errors = np.concatenate(errors)
    measured = float(np.median(errors)) if len(errors) else "no common pixels"
    report.add("depth between views: median difference", measured, "", None)


def compare_with_truth(frames: list[Frame], truth: Path, report: Report) -> None:
    """Errors against known cameras and masks, matched by ``frame_index``; reported, not judged."""
    frames = [frame for frame in frames if not frame.held_out]
    known = _true_cameras(truth)
    if known is not None:
        poses, true_focal = known
        centres = poses[[frame.index for frame in frames], :3, 3]
        path = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
        aligned = _similar(np.stack([frame.c2w[:3, 3] for frame in frames]), centres)
        ate = float(np.sqrt(((aligned - centres) ** 2).sum(axis=1).mean()))
        report.add("truth: ATE / length of the path", ate / max(path, 1e-12), "", None)
        if true_focal is not None:
            focal = np.mean([frame.K[0] for frame in frames])
            report.add("truth: focal error", float(abs(focal / true_focal - 1)), "", None)
    masks = sorted((truth / "masks").glob("*.png"))
    if masks and frames[0].mask is not None:
        overlap = []
        for frame in frames:
            moving = cv2.imread(str(frame.mask), 0) == 0
            true = cv2.imread(str(masks[frame.index]), 0) > 127
            union = (moving | true).sum()
            overlap.append((moving & true).sum() / union if union else 1.0)
        report.add("truth: masks, mean IoU", float(np.mean(overlap)), "", None)


def _true_cameras(truth: Path) -> tuple[np.ndarray, float | None] | None:
    """(N, 4, 4) poses and the focal length of ``gt_cameras.json``, or of ``truth.json`` as in examples/clip."""
    for name, pose in (("gt_cameras.json", "c2w"), ("truth.json", "T_world_cam")):
        if (truth / name).is_file():
            known = json.loads((truth / name).read_text())
            focal = known.get("fx", known.get("intrinsics", {}).get("fl_x"))
            return np.array([frame[pose] for frame in known["frames"]], dtype=float), focal
    return None


def _similar(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Points after the similarity that brings them closest to the target (Umeyama 1991)."""
    p, t = points - points.mean(axis=0), target - target.mean(axis=0)
    u, s, vt = np.linalg.svd(t.T @ p)
    d = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (s * d).sum() / max((p**2).sum(), 1e-12)
    return scale * p @ (u * d @ vt).T + target.mean(axis=0)


def _read_ply(path: Path) -> open3d.geometry.PointCloud:
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        return open3d.io.read_point_cloud(str(path))


def _sample(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    # remap takes at most 32767 entries a side: the points go in as one column.
    return (
        cv2.remap(image, xy[:, None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
        if len(xy)
        else np.zeros((0, 3), np.float32)
    )


def _blocks(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    cut = image[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, *image.shape[2:])


def _factors(frames: list[Frame]) -> list[int]:
    return [2**k for k in range(1, 7) if any(_at(frame.image, 2**k).exists() for frame in frames)]


def _at(path: Path | None, factor: int) -> Path | None:
    if path is None or factor == 1:
        return path
    return path.parent.with_name(f"{path.parent.name}_{factor}") / path.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="folder with transforms.json")
    parser.add_argument("--truth", type=Path, help="folder with gt_cameras.json or truth.json, and masks/")
    arguments = parser.parse_args()
    report = check_dataset(arguments.dataset, arguments.truth)
    failed = report.failed()
    sys.stdout.write(f"{report}\n{'all checks passed' if not failed else f'FAILED: {len(failed)} of the checks'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
