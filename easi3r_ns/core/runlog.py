"""Log of a run: stages with their seconds and peak memory, and warnings. Displays subclass :class:`RunLog`."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

STAGES = {
    "cuts": ("look for cuts", ""),
    "choosing frames": ("choose the frames", "frames"),
    "frames": ("read the frames", "frames"),
    "images": ("read the images", "images"),
    "read": ("read the recording", ""),
    "load encoder": ("load the network's encoder", ""),
    "load decoder": ("load the network's decoder", ""),
    "encode frames": ("show each frame to the network", "frames"),
    "pass 1: attention": ("compare pairs of frames", "pairs"),
    "pass 1: motion": ("find what moves", ""),
    "pass 2: pointmaps": ("predict points from pairs of frames", "pairs"),
    "pass 2: motion": ("find what moves once more", ""),
    "motion from flow": ("find motion in the optical flow", "pairs"),
    "views": ("cut 360 degree frames into views", "pictures"),
    "motion from geometry": ("find motion in the optical flow", "pairs"),
    "optical flow": ("measure optical flow", "pairs"),
    "global alignment": ("join all pairs into one scene", ""),
    "align windows": ("join the pairs of each part of the clip", "parts"),
    "align windows with one focal length": ("join them with one focal length", "parts"),
    "find loops": ("look for places that the camera comes back to", ""),
    "join windows": ("join the parts of the clip", ""),
    "does the camera stand still": ("check whether the camera stands still", ""),
    "does the lens zoom": ("check whether the lens zooms", ""),
    "features": ("find image features", "frames"),
    "matching": ("match features between frames", ""),
    "bundle adjustment": ("refine the cameras (bundle adjustment)", ""),
    "mapping": ("find cameras from features (mapping)", "frames"),
    "one lens for all clips": ("bring all clips to one lens", "frames"),
    "refit depths": ("fit the depths to the cameras", ""),
    "stereo": ("measure depth (stereo)", "frames"),
    "depth prior": ("predict depth from single pictures", "frames"),
    "stereo by PatchMatch": ("measure depth (PatchMatch)", "frames"),
    "stereo agreement": ("compare the depths of the frames", ""),
    "motion against the scene": ("find what moves against the scene", "pairs"),
    "frames in between": ("find cameras of the frames in between", "frames"),
    "masks at all times": ("follow what moves at some time", "frames"),
    "follow by hand": ("look for the object in the other frames", "frames"),
    "objects": ("tell apart what moves", "frames"),
    "things by name": ("look for things by their names", "frames"),
    "refined masks": ("follow what moves with a segmentation model", "frames"),
    "motion outside of the masks": ("look around the masks", ""),
    "dataset": ("write the dataset", ""),
    "check": ("load the dataset for a check", ""),
    "preview": ("write preview.mp4", "frames"),
    "contact sheet": ("write contact_sheet.png", ""),
    "report": ("write report.html", ""),
    "points": ("collect the points", "frames"),
    "comparison": ("draw the comparison", "datasets"),
    "comparison video": ("film all scenes in step", "pictures"),
}
"""Name of a stage -> what it does, for those who watch it, and what its steps are; empty: steps that mean nothing to
them. Names that are not here are shown as they are."""


def stage_words(name: str) -> str:
    """What a stage does, in words."""
    return STAGES.get(name, (name, ""))[0]


def stage_unit(name: str) -> str:
    """What the steps of a stage are, in the plural; empty where their number means nothing to a reader."""
    return STAGES.get(name, (name, ""))[1]


def duration(seconds: float) -> str:
    """'42 s', '12 min 5 s', '3 h 20 min' or '4 days 5 h'."""
    whole = max(0, round(seconds))
    for size, unit, part, small in ((86400, "days", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            many, rest = divmod(round(whole / part), size // part)
            return f"{many} {'day' if unit == 'days' and many == 1 else unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


@dataclass(frozen=True)
class StageRecord:
    """Cost of one stage."""

    name: str
    seconds: float
    """Wall-clock seconds."""
    cpu_seconds: float
    """User plus system seconds over all threads."""
    peak_memory_bytes: int
    """Largest resident set of the process during the stage (of the whole run outside Linux, 0 on Windows)."""


@dataclass
class RunLog:
    """Records stages and warnings. The base class shows nothing on a terminal."""

    stages: list[StageRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _told: set[str] = field(default_factory=set, repr=False)

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Time a stage; yields ``advance(n)``, to be called after every n of ``total`` steps."""
        _reset_peak_memory()
        wall, cpu = time.perf_counter(), time.process_time()
        with self._display(name, total) as advance:
            yield advance
        self.stages.append(
            StageRecord(name, time.perf_counter() - wall, time.process_time() - cpu, peak_memory_bytes())
        )

    def warn(self, message: str) -> None:
        """Report something that the user should act on; kept in the dataset's provenance and in the report."""
        if message not in self.warnings:
            self.warnings.append(message)
            logger.warning(message)

    def info(self, message: str) -> None:
        """Report progress or a decision in one line."""
        logger.info(message)

    def once(self, message: str) -> None:
        """As :meth:`info`, for a line that several stages of a run have reason to say."""
        if message not in self._told:
            self._told.add(message)
            self.info(message)

    def detail(self, message: str) -> None:
        """Report in one line what only those want to know who look into the method; displays may leave it out."""
        self.info(message)

    @contextlib.contextmanager
    def _display(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        def advance(steps: int = 1) -> None:
            """Shows nothing."""

        yield advance


def peak_memory_bytes() -> int:
    """Largest resident set of this process in bytes: since the start of the stage on Linux, of its whole life on macOS,
    0 on Windows.
    """
    peak = _process_status("VmHWM")
    if peak is not None:
        return peak
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def resident_memory_bytes() -> int:
    """Resident set of this process now, in bytes; its peak outside Linux."""
    resident = _process_status("VmRSS")
    return peak_memory_bytes() if resident is None else resident


def _process_status(field: str) -> int | None:
    """A memory field of /proc/self/status in bytes; None outside Linux."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(field)).split()[1]) * 1024
    return None


def _reset_peak_memory() -> None:
    # Linux resets VmHWM when "5" is written here; where that is refused, the peak stays that of the whole run.
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as clear_refs:
        clear_refs.write("5")
