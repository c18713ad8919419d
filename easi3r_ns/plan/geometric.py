"""Forecast of a run without a network."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.budget import UNBOUNDED, Budget
from ..frames import KEPT_BYTES
from ..motion.two_view import residual_bytes
from .forecast import (
    FILE_SECONDS,
    LIBRARIES_BYTES,
    LONG_SECONDS,
    RESULT_BYTES,
    refine_seconds,
    write_seconds,
    writer_bytes,
)
from .limits import sweep_bytes
from .stages import Staged, StageForecast, time_range

MOTION_SECONDS = 4.5e-6
"""Seconds of optical flow and two-view geometry per frame and pixel of the images in which masks are computed: 2.7e-6
where every frame of the example clip is used, 6.1e-6 for every fourth, because flow goes through those in between."""
STEREO_SECONDS = 6.5e-6
"""Seconds of multi-view stereo per frame and pixel: 4.3e-6 for 6 frames, 6.8e-6 for 24, which have more neighbours."""
GEOMETRIC_LOOK_SECONDS = 4.2e-6
"""Seconds of the second look per frame and pixel: 3.0e-6 and 5.4e-6, as for the first look."""
DENSE_SECONDS = 1.8e-6
"""Seconds to write and judge the depth, per frame and pixel."""
BASE_BYTES = 0.7e9
"""Memory of the process before a run."""


@dataclass(frozen=True)
class GeometricJob:
    """The quantities that determine the cost."""

    num_frames: int
    size: tuple[int, int]
    """(width, height) of the images in which masks are computed."""
    source_pixels: int
    own_masks: bool = True
    """Whether masks are looked for."""
    second_look: bool = True
    depth: bool = True
    max_memory: float | None = None
    """The limit of the run in GiB, which some stages keep with fewer threads."""


@dataclass(frozen=True)
class GeometricForecast(Staged):
    """Forecast of a run, stage by stage; as :class:`.forecast.Forecast`."""

    job: GeometricJob
    stages: tuple[StageForecast, ...]
    raw: tuple[StageForecast, ...] = ()
    """The stages before they were corrected by what is known of this machine."""
    device: str = "cpu"
    budget: Budget = UNBOUNDED

    @property
    def remedy(self) -> str:
        """What would shorten a run of more than an hour; empty for a shorter one."""
        return "this takes long; fewer frames (--num-frames-target) are faster" if self.seconds > LONG_SECONDS else ""

    def key(self, name: str) -> str:
        """Under which the experience with a stage is kept."""
        return f"{name}, without a network"

    def __str__(self) -> str:
        size = "x".join(map(str, self.job.size))
        return (
            f"{self.job.num_frames} frames at {size}, no network; about {time_range(self.stages)}, "
            f"{self.memory_bytes / 2**30:.1f} GiB of memory"
        )


def forecast_geometric(job: GeometricJob, factor: float = 1.0) -> GeometricForecast:
    """Seconds and memory of every stage; ``factor``: how much slower this machine is than the reference."""
    pixels = job.num_frames * job.size[0] * job.size[1]
    held = BASE_BYTES + 3.0 * pixels + LIBRARIES_BYTES
    flow = residual_bytes(job.num_frames, job.size[1], job.size[0])
    results = held + RESULT_BYTES * pixels

    def stage(name: str, seconds: float, memory: float) -> StageForecast:
        return StageForecast(name, factor * seconds, memory)

    stages = [stage("frames", FILE_SECONDS / 2 * job.num_frames * job.source_pixels, held + KEPT_BYTES)]
    if job.own_masks:
        stages.append(stage("motion from geometry", MOTION_SECONDS * pixels, held + flow))
    stages.append(stage("bundle adjustment", refine_seconds(job.num_frames, job.source_pixels), results))
    if job.depth:
        threads = sweep_bytes(job.max_memory, job.size[0] * job.size[1], results)
        stages.append(stage("stereo", STEREO_SECONDS * pixels, results + threads))
    if job.own_masks and job.second_look:
        stages.append(stage("motion against the scene", GEOMETRIC_LOOK_SECONDS * pixels, results + flow))
    writing = write_seconds(job.num_frames, job.source_pixels) + DENSE_SECONDS * pixels * job.depth
    stages.append(stage("dataset", writing, results + writer_bytes(job.num_frames, job.source_pixels)))
    return GeometricForecast(job, tuple(stages), raw=tuple(stages))
