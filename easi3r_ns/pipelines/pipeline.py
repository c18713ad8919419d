"""What a run asks of a pipeline, and which pipelines there are: adding one is a module and its entry in
:func:`choose_pipeline`'s table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..core.budget import UNBOUNDED, Budget
from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import Frames
from ..frames import ImageGeometry
from ..network.weights import WeightsInfo
from ..plan.forecast import Forecast
from ..storage.cache import StageCache


@dataclass(frozen=True)
class RunConfig:
    """All options of a run."""

    frames: FrameConfig = FrameConfig()
    easi3r: Easi3RConfig = Easi3RConfig()
    align: AlignConfig = AlignConfig()
    dataset: DatasetConfig = DatasetConfig()
    refine: RefineConfig = RefineConfig()
    eval_data: Path | None = None
    """Second video or folder whose frames are posed in the same scene and become the val and test splits."""


class Pipeline(Protocol):
    """Turns the frames of a clip into a scene. A run calls the methods in the order in which they stand here."""

    has_depth: bool
    """Whether its scenes have dense depth."""

    def check(self, log: RunLog) -> None:
        """Look at the options before any work; those without effect are named in a warning.

        Raises:
            Easi3RError: a run with these options cannot succeed, with the remedy.
        """

    def forecast(self, data: Path, log: RunLog) -> Forecast | None:
        """What the run will cost, before anything is downloaded; None: nobody needs to know.

        Raises:
            Easi3RError: the source cannot be used, or the run does not fit the memory that is allowed.
        """

    def prepare(self, log: RunLog) -> None:
        """Fetch what the pipeline needs (weights).

        Raises:
            CheckpointError: it cannot be had.
        """

    @property
    def geometry(self) -> ImageGeometry:
        """The size and shape of the images that it takes; known when it is prepared."""

    @property
    def weights(self) -> WeightsInfo | None:
        """Of its network; None: it has none. Known when it is prepared."""

    def reconstruct(
        self, frames: Frames, cache: StageCache, log: RunLog, *, num_eval: int = 0, budget: Budget = UNBOUNDED
    ) -> Scene:
        """Cameras, motion masks and what the pipeline knows of depth.

        Args:
            frames: of :attr:`geometry`.
            cache: where finished stages are kept and found.
            num_eval: this many frames at the end are evaluation views, taken apart from the clip.
            budget: of the forecast: how much of the work is in memory at once.

        Returns:
            The scene, which may lack frames that found no camera.

        Raises:
            Easi3RError: with the remedy.
        """


def choose_pipeline(config: RunConfig) -> Pipeline:
    """The pipeline for ``--weights``: the first of the table that handles it."""
    from .geometric import GeometricPipeline
    from .network import NetworkPipeline

    pipelines = (GeometricPipeline, NetworkPipeline)
    return next(pipeline(config) for pipeline in pipelines if pipeline.handles(config.easi3r.weights))
