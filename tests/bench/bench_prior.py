"""What a depth prior of a stated error adds to stereo, and how good metres and up are, on rendered scenes.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_prior --results examples/results

The example clip goes through the whole pipeline; rooms have their true cameras, and stereo of its own. The prior is a
stand-in that knows the truth and errs as it is told to: no weights are needed. Writes ``prior.md``.
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import network_to_source
from easi3r_ns.core.metric import Metres, metres_by_height, metres_by_reference
from easi3r_ns.core.reference import MetricReference
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import FROM_PRIOR, Scene
from easi3r_ns.core.similarity import align_cameras
from easi3r_ns.core.surface import trusted_depth
from easi3r_ns.core.upright import WORLD_UP, level_scene
from easi3r_ns.dataset.listing import positions_by_stem
from easi3r_ns.depth.movers import assume_depth
from easi3r_ns.depth.prior import Predictions, fill_depth, metres_by_prior
from easi3r_ns.depth.stereo import stereo_depth
from easi3r_ns.pipelines.run import RunConfig, process
from easi3r_ns.storage.files import write_bytes
from easi3r_ns.training.scenes import Clip, render_clip
from tests.support.clip_scene import perfect_scene, true_points

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOMS, ROOM_FRAMES, ROOM_SIZE = (5, 11), 12, (384, 512)
ERRORS = (0.02, 0.05, 0.1, 0.2)
"""Standard deviation of the stand-in's smooth relative error of the inverse depth."""
LEVEL, OUTLIERS, BLUR, FLICKER = 1 / 8, 0.05, 2.0, 0.3
"""Extent of that error as a share of the picture, share of pixels that are wrong altogether, blur of the prediction in
pixels, and standard deviation of the logarithm of each frame's own scale."""
REFERENCES = 40


@dataclass(frozen=True)
class Case:
    """A reconstructed scene and the truth on its grid."""

    name: str
    scene: Scene
    depth: np.ndarray
    """(F, H, W) true z-depth in metres."""
    moving: np.ndarray
    T_world_cam: np.ndarray
    """(F, 4, 4) true cameras; z is up."""

    @property
    def unit(self) -> float:
        """Metres of a scene unit, by the depth of what stands still: the truth for scales."""
        known = (self.scene.depth > 0) & ~self.moving
        return float(np.median(self.depth[known] / self.scene.depth[known]))


def example(folder: Path) -> Case:
    """The example clip through the pipeline without a network."""
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights="none", device="cpu"),
        dataset=DatasetConfig(num_downscales=0, report=False, up="none"),
    )
    scene = process(EXAMPLES / "clip" / "clip.mp4", folder, config, overwrite=True, log=RunLog()).scene
    clip: Clip = runpy.run_path(str(EXAMPLES / "render_clip.py"))["shoot"](scene.depth.shape[1:])
    rows = scene.indices
    return Case("example clip", scene, clip.depth[rows], clip.moving[rows], clip.T_world_cam[rows])


def room(seed: int, folder: Path) -> Case:
    """A rendered room with true cameras, true masks and depth by stereo, in the axes of its first camera."""
    clip = render_clip(seed, ROOM_FRAMES, *ROOM_SIZE)
    scene = replace(perfect_scene(clip, folder), sparse=true_points(clip))
    scene = assume_depth(stereo_depth(scene, RunLog()))
    scene = replace(scene, provenance={"stereo": "opencv"})
    return Case(f"room {seed}", scene, clip.depth, clip.moving, clip.T_world_cam)


def stand_in(case: Case, error: float, *, metric: bool = False, seed: int = 0) -> Predictions:
    """What a network that errs by so much would say."""
    rng = np.random.default_rng(seed)
    out = np.zeros_like(case.depth, dtype=np.float32)
    height, width = case.depth.shape[1:]
    for frame, depth in enumerate(case.depth):
        inverse = cv2.GaussianBlur((1 / depth).astype(np.float32), (0, 0), BLUR)
        field = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), LEVEL * width / 2)
        inverse *= 1 + error * field / field.std()
        wrong = rng.random((height, width)) < OUTLIERS
        inverse[wrong] = rng.uniform(inverse.min(), inverse.max(), int(wrong.sum()))
        scale, shift = (1.0, 0.0) if metric else (np.exp(FLICKER * rng.standard_normal()), rng.uniform(0, 0.1))
        out[frame] = scale * inverse + shift
    return Predictions(out, metric, "stand-in", "Apache-2.0")


def scores(depth: np.ndarray, case: Case, pixels: np.ndarray) -> str:
    """Coverage, AbsRel and d < 1.25 in the scene's true unit, as cells of a table."""
    both = pixels & (depth > 0)
    if not both.any():
        return "0 | - | -"
    ratio = depth[both] * case.unit / case.depth[both]
    within = np.maximum(ratio, 1 / ratio) < 1.25
    return f"{both.sum() / pixels.sum():.3f} | {np.abs(ratio - 1).mean():.4f} | {within.mean():.4f}"


def fill_table(case: Case) -> list[str]:
    """A row for stereo alone, for what is assumed of movers, and for every error of the prior."""
    trusted = np.stack([trusted_depth(case.scene, k) for k in range(len(case.scene))])
    assumed = np.zeros_like(trusted) if case.scene.assumed_depth is None else case.scene.assumed_depth
    every = np.ones_like(case.moving)
    lines = [
        f"| {case.name} | stereo alone | {scores(trusted, case, every)} | {scores(assumed, case, case.moving)} | |"
    ]
    for error in ERRORS:
        filled = fill_depth(case.scene, stand_in(case, error), RunLog())
        facts = filled.provenance["depth_prior"]
        of_prior = filled.depth * (filled.depth_source == FROM_PRIOR)
        lines.append(
            f"| {case.name} | prior, {100 * error:.0f} % | {scores(filled.depth, case, every)} | "
            f"{scores(of_prior, case, case.moving)} | {100 * facts['error']:.1f} % / "
            f"{100 * facts['disagreement']:.1f} % |"
        )
    return lines


def references(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of the scale, and their sigma, by true distances between random places with a known depth."""
    rng, pictures = np.random.default_rng(seed), positions_by_stem(case.scene)
    stems, errors, sigmas = list(pictures), [], []
    while len(errors) < REFERENCES:
        frame = int(rng.integers(len(case.scene)))
        good = np.argwhere((case.scene.depth[frame] > 0) & ~case.moving[frame] & ~case.scene.dynamic.masks[frame])
        (y1, x1), (y2, x2) = good[rng.integers(len(good), size=2)]
        if np.hypot(x2 - x1, y2 - y1) < 0.25 * case.depth.shape[2]:
            continue
        focal, centre = case.scene.focals_xy[frame], case.scene.principal_point
        rays = [np.append((np.array(p) - centre) / focal, 1.0) for p in ((x1, y1), (x2, y2))]
        true = [case.depth[frame, y, x] * ray for (y, x), ray in zip(((y1, x1), (y2, x2)), rays)]
        pixels = [network_to_source(np.array(p, dtype=float), case.scene.pixel_map) for p in ((x1, y1), (x2, y2))]
        pair = ((pixels[0][0], pixels[0][1]), (pixels[1][0], pixels[1][1]))
        try:
            reference = MetricReference(stems[frame], pair, float(np.linalg.norm(true[1] - true[0])))
            found = metres_by_reference(case.scene, reference, pictures)
        except InputError:
            continue
        errors.append(found.factor / case.unit - 1)
        sigmas.append(found.sigma)
    return np.array(errors), np.array(sigmas)


def scale_row(case: Case) -> str:
    """Errors of the scale by references, by the camera's height and by a metric prior; and of up."""
    errors, sigmas = references(case)
    height = float(np.median(case.T_world_cam[:, 2, 3]))
    level = level_scene(case.scene, "auto", RunLog())
    to_truth = align_cameras(level.T_world_cam, case.T_world_cam)
    off = float(np.degrees(np.arccos(np.clip((to_truth.R @ WORLD_UP)[2], -1, 1))))
    facts = level.provenance["up"]
    return (
        f"| {case.name} | {100 * np.median(np.abs(errors)):.2f} % ({100 * np.quantile(np.abs(errors), 0.9):.2f} %) | "
        f"{100 * np.median(sigmas):.2f} % | {(np.abs(errors) < 2 * sigmas).mean():.2f} | "
        f"{_told(lambda: metres_by_height(case.scene, height), case.unit)} | "
        f"{_told(lambda: metres_by_prior(case.scene, stand_in(case, 0.1, metric=True)), case.unit)} | "
        f"{off:.2f}\u00b0 ({facts['method']}, {facts['sigma_deg']:.1f}\u00b0) |"
    )


def _told(found, unit: float) -> str:  # type: ignore[no-untyped-def]
    """Error and sigma, or why there are none."""
    try:
        metres: Metres | None = found()
    except InputError:
        return "no plane"
    return "-" if metres is None else f"{100 * (metres.factor / unit - 1):+.2f} % ({100 * metres.sigma:.2f} %)"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, required=True)
    results = parser.parse_args().results
    with tempfile.TemporaryDirectory() as folder:
        cases = [*(room(seed, Path(folder) / str(seed)) for seed in ROOMS), example(Path(folder) / "out")]
    page = results / "prior.md"
    text = page.read_text(encoding="utf-8")
    for name, lines in (
        ("fill", [line for case in cases for line in fill_table(case)]),
        ("scale", [scale_row(case) for case in cases]),
    ):
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, rest = text.split(start)
        header = "".join(rest.split(end)[0].splitlines(keepends=True)[:2])
        text = before + start + header + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    write_bytes(page, text.encode())


if __name__ == "__main__":
    main()
