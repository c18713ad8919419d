"""The forecast of one stage, and of stages together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.runlog import duration


@dataclass(frozen=True)
class StageForecast:
    """Forecast of one stage."""

    name: str
    seconds: float
    memory_bytes: float
    """Largest resident memory of the process."""
    gpu_bytes: float = 0.0
    """Largest memory on the GPU, where the network runs on one."""
    low_seconds: float | None = None
    """The stage will hardly be faster; None: not estimated."""
    high_seconds: float | None = None
    """The stage will hardly be slower; None: not estimated."""
    known: bool = False
    """Whether earlier runs on this machine decide the time."""


class Staged:
    """What is said of all stages together; for a dataclass that has them."""

    stages: tuple[StageForecast, ...]

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory_bytes(self) -> float:
        """Largest resident memory of the process."""
        return max(stage.memory_bytes for stage in self.stages)


def time_range(stages: Sequence[StageForecast]) -> str:
    """The time of all stages with its range: '4 min 10 s (2 to 8 min)'; without a range where there is none."""
    total = sum(stage.seconds for stage in stages)
    # Stages do not all come out at the same end of their ranges: half of the width adds up, half evens out.
    spread = [0.0, 0.0]
    for end, side in enumerate(("low_seconds", "high_seconds")):
        gaps = [abs(getattr(s, side) - s.seconds) for s in stages if getattr(s, side) is not None]
        spread[end] = (sum(gaps) + sum(gap**2 for gap in gaps) ** 0.5) / 2
    if not any(spread):
        return duration(rounded(total))
    low, high = rounded(max(0.0, total - spread[0])), rounded(total + spread[1])
    return f"{duration(rounded(total))} ({duration(low)} to {duration(high)})"


def rounded(seconds: float) -> float:
    """Seconds as they are worth being said: of about two digits."""
    for step, least in ((3600, 36000), (600, 7200), (60, 600), (10, 90), (5, 20)):
        if seconds >= least:
            return step * round(seconds / step)
    return float(max(1, round(seconds)))
