"""Scene -> Scene: our cameras against bundle adjustment from them and against mapping from scratch; the best stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from ..core.config import RefineConfig
from ..core.geometry import intrinsics_to_source, source_to_network
from ..core.runlog import RunLog
from ..core.scene import INTERPOLATED, CameraUncertainty, Scene, choose_scale, rescale_scene
from ..core.similarity import align_cameras, fill_missing
from .bundle import bundle_from
from .certainty import model_uncertainty
from .depths import MIN_POINTS, DepthFit, apply_fit, fit_depth, sample_depth
from .features import find_correspondences
from .mapping import map_incrementally, with_colors
from .model import FISHEYE, Correspondences, Lens, SparseModel
from .score import HELD_OUT, MIN_HELD_OUT, Score, hold_out, score_cameras, without_keypoints
from .zoom import warn_about_zoom

OURS = "network"
"""Name of the candidate with the cameras that the scene has already."""
MIN_REGISTERED = 0.5
"""Share of the frames that a candidate must place itself."""


@dataclass(frozen=True)
class _Options:
    config: RefineConfig
    fixed_focal: bool
    seed: int
    start_focal: float | None
    shared_focal: bool


@dataclass(frozen=True)
class Candidate:
    """Cameras that may be kept: all frames of the clip, in the world of the scene."""

    name: str
    T_world_cam: np.ndarray
    lens: Lens
    registered: np.ndarray
    scales: np.ndarray
    """(F,) factors from the scene's depths to the scale of these cameras, for frames with too few points to fit one."""
    model: SparseModel | None
    focals: np.ndarray | None = None
    """(F,) focal lengths in source pixels; None: all are that of ``lens``."""


def refine_scene(
    scene: Scene,
    config: RefineConfig,
    log: RunLog,
    seed: int,
    *,
    fixed_focal: bool = False,
    start_focal: float | None = None,
    shared_focal: bool = True,
) -> Scene:
    """The scene with better cameras, and depths that agree with them, when static tracks allow; else as it was.

    Tracks on what stands still make two candidates: bundle adjustment that starts from the scene's cameras, and
    incremental mapping from scratch (bundle adjustment can end in a bent path with small epipolar errors, so the two
    always compete); where neither places every frame, mapping without masks is tried too, for masks may be wrong.
    Cameras are kept by their cost on STATIC tracks that were held out of all candidates
    (:class:`~easi3r_ns.refine.score.Score`), so that cameras which follow a moving object score badly. Frames that
    COLMAP cannot place keep their camera, transformed into its world (``pose_sources`` says 'aligned'). The scores
    stand in ``provenance["refine"]``.

    Args:
        fixed_focal: the focal length is known and stays.
        start_focal: source pixels where mapping from scratch starts; None: the scene's focal length.
        shared_focal: one focal length for all frames, with a warning where the lens zooms; otherwise one for each.

    Raises:
        MissingExtraError: pycolmap is not installed.
    """
    own, lens = scene_lens(scene), _start_lens(scene, config)
    known = {"focal": lens.focal if fixed_focal else None, "fisheye": lens if lens.fisheye else None}
    known |= {"kind": config.features}
    found = find_correspondences(scene, scene.dynamic, log, seed=seed, **known)
    seen, held = hold_out(found, HELD_OUT, seed)
    if held.num_matches < MIN_HELD_OUT:
        return _kept(scene, config, log, "too little static texture: the frames hardly match")
    everywhere = np.ones(len(scene), dtype=bool)
    focals = None if shared_focal else _source_focals(scene)
    ours = Candidate(OURS, scene.T_world_cam, own, everywhere, np.ones(len(scene)), None, focals)
    options = _Options(config, fixed_focal, seed, start_focal, shared_focal)
    candidates = [ours, *_adjusted(scene, seen, lens, options, log)]
    candidates += _mapped("mapping", scene, seen, lens, options, log)
    if scene.dynamic.masks.any() and not any(c.registered.all() for c in candidates[1:]):
        still = replace(scene.dynamic, masks=np.zeros_like(scene.dynamic.masks))
        everything = find_correspondences(scene, still, log, seed=seed, **known)
        candidates += _mapped("mapping without masks", scene, without_keypoints(everything, held), lens, options, log)
    scores = {c.name: _score(c, held) for c in candidates}
    best = min(candidates, key=lambda candidate: scores[candidate.name].cost)
    for name, score in scores.items():
        log.detail(f"cameras of {name:<21} {score}{'   <- kept' if name == best.name else ''}")
    zoom = None
    if shared_focal and len(candidates) > 1:
        likely = min(candidates[1:], key=lambda candidate: scores[candidate.name].cost)
        assert likely.model is not None, "only the first candidate has none"
        zoom = warn_about_zoom(likely.model, config.camera_model, log)
    record = {"kept": best.name, "held_out_matches": held.num_matches} | {n: _as_json(s) for n, s in scores.items()}
    record |= {"zoom": zoom.facts} if zoom else {}
    if best.model is None:
        why = "no other cameras explain the held-out matches better" if len(candidates) > 1 else "COLMAP finds none"
        return _kept(scene, config, log, why, record)
    refined = _with_cameras(scene, best, options, log)
    refined = replace(refined, provenance=scene.provenance | {"refine": record | refined.provenance["refine"]})
    return rescale_scene(refined, choose_scale(refined))


def scene_lens(scene: Scene) -> Lens:
    """The scene's camera in source pixels; the median focal length where frames differ."""
    focal, _, cx, cy = intrinsics_to_source(float(np.median(scene.focals)), scene.principal_point, scene.pixel_map)
    return Lens(*scene.pixel_map.source_wh, focal, (cx, cy), scene.distortion)


def _start_lens(scene: Scene, config: RefineConfig) -> Lens:
    """Where bundle adjustment starts: the scene's lens, or a fisheye of its focal length."""
    own = scene_lens(scene)
    if config.camera_model != FISHEYE or own.fisheye:
        return own
    return own.of_kind(FISHEYE)


def _source_focals(scene: Scene) -> np.ndarray:
    """(F,) source pixels."""
    return scene.focals / scene.pixel_map.scale_xy[0]


def _adjusted(scene: Scene, seen: Correspondences, lens: Lens, options: _Options, log: RunLog) -> list[Candidate]:
    with log.stage("bundle adjustment"):
        fixed, seed = options.fixed_focal, options.seed
        focals = None if options.shared_focal else _source_focals(scene)
        model = bundle_from(seen, scene.T_world_cam, lens, options.config, fixed_focal=fixed, seed=seed, focals=focals)
    return _candidate("bundle adjustment", scene, model)


def _mapped(
    name: str, scene: Scene, seen: Correspondences, lens: Lens, options: _Options, log: RunLog
) -> list[Candidate]:
    with log.stage(name, len(scene)) as advance:
        fixed, seed = options.fixed_focal, options.seed
        if options.start_focal is not None:
            lens = replace(lens, focal=options.start_focal)
        focals = None if options.shared_focal else np.full(len(scene), lens.focal)
        model = map_incrementally(
            seen, lens, options.config, fixed_focal=fixed, seed=seed, advance=advance, focals=focals
        )
    return _candidate(name, scene, model)


def _score(candidate: Candidate, held: Correspondences) -> Score:
    return score_cameras(candidate.T_world_cam, candidate.lens, held, candidate.registered, candidate.focals)


def _candidate(name: str, scene: Scene, model: SparseModel | None) -> list[Candidate]:
    """The candidate; none when the model is missing or holds too few frames."""
    if model is None or model.registered.sum() < 3 or model.registered.mean() < MIN_REGISTERED:
        return []
    known = model.registered
    back = align_cameras(model.T_world_cam[known], scene.T_world_cam[known])
    moved = model.moved(back.scale, back.R, back.t)
    cameras, scales = fill_missing(scene.T_world_cam, moved.T_world_cam, known)
    return [Candidate(name, cameras, moved.lens, known, scales, moved, moved.focals)]


def _with_cameras(scene: Scene, best: Candidate, options: _Options, log: RunLog) -> Scene:
    model = with_colors(best.model, scene.source_paths)
    with log.stage("refit depths", len(scene)):
        fits = _depth_fits(scene, model, best.scales)
        depth = np.stack([apply_fit(d, fit) for d, fit in zip(scene.depth, fits)])
    shifted = sum(fit.shift != 0 for fit in fits)
    errors = [fit.error for fit in fits if np.isfinite(fit.error)]
    error = float(np.median(errors)) if errors else None
    if error is not None:
        log.detail(
            f"depths agree with the points within {100 * error:.1f} % (median); {shifted} of {len(fits)} shifted"
        )
    focals = np.full(len(scene), best.lens.focal) if best.focals is None else best.focals
    before = scene.pose_sources or ("network",) * len(scene)
    unplaced = (INTERPOLATED if source == INTERPOLATED else "aligned" for source in before)
    sources = tuple("colmap" if known else source for known, source in zip(best.registered, unplaced))
    if "aligned" in sources:
        log.warn(
            f"COLMAP could not place {sources.count('aligned')} of {len(scene)} frames: they keep {_whose(scene)} "
            "cameras, moved along with their neighbours (pose_source in transforms.json)"
        )
    uncertainty = _uncertainty(scene, best, model, options)
    return replace(
        scene,
        T_world_cam=best.T_world_cam,
        focals=focals * scene.pixel_map.scale_xy[0],
        principal_point=source_to_network(np.array(best.lens.principal_point), scene.pixel_map),
        distortion=best.lens.distortion,
        depth=depth,
        confidence=np.where(depth > 0, scene.confidence, 0).astype(np.float32),
        sparse=model.sparse,
        pose_sources=sources,
        uncertainty=uncertainty,
        provenance={"refine": {"depth_error": error, "depths_shifted": shifted}},
    )


def _uncertainty(scene: Scene, best: Candidate, model: SparseModel, options: _Options) -> CameraUncertainty | None:
    """That of the model; frames that it could not place keep what was known of them before."""
    found = model_uncertainty(model, options.config.camera_model, fixed_focal=options.fixed_focal)
    if found is None:
        return None
    before, placed = scene.uncertainty, best.registered
    rotation, centre = found.rotation_deg, found.centre
    if before is not None:
        rotation = np.where(placed, rotation, before.rotation_deg)
        centre = np.where(placed, centre, before.centre * best.scales)
    return replace(found, rotation_deg=rotation, centre=centre, focal=found.focal * scene.pixel_map.scale_xy[0])


def _depth_fits(scene: Scene, model: SparseModel, scales: np.ndarray) -> list[DepthFit]:
    """One fit a frame; frames with few points take the median scale of the others, relative to the cameras' scale."""
    wanted = model.observed_depth()
    fits: list[DepthFit | None] = []
    for frame in range(len(scene)):
        rows = np.flatnonzero(model.sparse.frame_index == frame)
        ours = sample_depth(scene.depth[frame], model.sparse.pixels[rows], scene.pixel_map)
        usable = (ours > 0) & (wanted[rows] > 0)
        fits.append(fit_depth(ours[usable], wanted[rows][usable]) if usable.sum() >= MIN_POINTS else None)
    known = [fit.scale / scale for fit, scale in zip(fits, scales) if fit is not None and fit.shift == 0]
    usual = float(np.median(known)) if known else 1.0
    return [fit or DepthFit(usual * float(scale), 0.0, 0, float("nan")) for fit, scale in zip(fits, scales)]


def _kept(scene: Scene, config: RefineConfig, log: RunLog, why: str, record: dict | None = None) -> Scene:
    say = log.warn if config.refine == "colmap" else log.info
    say(f"--refine {config.refine} keeps {_whose(scene)} cameras: {why}")
    return replace(scene, provenance=scene.provenance | {"refine": (record or {"kept": OURS}) | {"why": why}})


def _whose(scene: Scene) -> str:
    return "the given" if "imported" in scene.provenance else "the network's"


def _as_json(score: Score) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in asdict(score).items()}
