"""The interface between a run and a pipeline, and the choice of the pipeline.

A new pipeline is a module with a class that implements :class:`Pipeline`, and an entry in :func:`choose_pipeline`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..core.budget import UNBOUNDED, Budget
from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import DynamicMasks, Frames
from ..frames import ImageGeometry
from ..network.weights import WeightsInfo
from ..plan.forecast import Forecast
from ..plan.geometric import GeometricForecast
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
    more_data: tuple[Path, ...] = ()
    """Further clips of the same scene, each with its own camera and timeline; see :mod:`.several`."""
    keep_stages: bool = False
    """Keep the results of the stages when the dataset is complete; see :mod:`.kept`."""


class Pipeline(Protocol):
    """Reconstructs a scene from the frames of a clip; a run calls the methods in the order of their declaration."""

    @property
    def has_depth(self) -> bool:
        """Whether the scenes of this pipeline have dense depth."""

    def check(self, log: RunLog) -> None:
        """Check the options before any work, and warn about options without effect.

        Raises:
            Easi3RError: a run with these options cannot succeed.
        """

    def forecast(self, data: Path, log: RunLog) -> Forecast | GeometricForecast | None:
        """Predict time and memory of the run before anything is downloaded; None if there is no prediction.

        Raises:
            Easi3RError: the source cannot be used, or the run would exceed the memory limit.
        """

    def prepare(self, log: RunLog) -> None:
        """Find or download the weights, if the pipeline needs any.

        Raises:
            CheckpointError: the weights are not available.
        """

    @property
    def geometry(self) -> ImageGeometry:
        """Size and shape of the images that the pipeline expects; valid after :meth:`prepare`."""

    @property
    def weights(self) -> WeightsInfo | None:
        """Description of the network's weights, valid after :meth:`prepare`; None: there is no network."""

    def masks(self, frames: Frames, cache: StageCache, log: RunLog, *, num_eval: int = 0) -> DynamicMasks:
        """What moves, by the first look alone; arguments as :meth:`reconstruct`, which takes what is kept here.

        Raises:
            Easi3RError: the masks cannot be had.
        """

    def reconstruct(
        self, frames: Frames, cache: StageCache, log: RunLog, *, num_eval: int = 0, budget: Budget = UNBOUNDED
    ) -> Scene:
        """Reconstruct cameras and motion masks, and depth if :attr:`has_depth`.

        Args:
            frames: images of the size and shape that :attr:`geometry` describes.
            cache: keeps the results of finished stages.
            num_eval: number of frames at the end that are evaluation views, recorded separately from the clip.
            budget: the forecast's choices that bound the memory.

        Returns:
            The scene. Frames whose camera was not found may be missing from it.

        Raises:
            Easi3RError: the clip cannot be reconstructed; the message says what to do.
        """


def choose_pipeline(config: RunConfig) -> Pipeline:
    """The first of the known pipelines that handles the value of ``--weights``.

    What ``auto`` means for a clip is decided before, in :mod:`.choice`; here it is a network.
    """
    from .geometric import GeometricPipeline
    from .network import NetworkPipeline

    pipelines = (GeometricPipeline, NetworkPipeline)
    return next(pipeline(config) for pipeline in pipelines if pipeline.handles(config.easi3r.weights))
