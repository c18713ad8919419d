"""``--depth-prior`` and ``--metric`` in a run: the model is found, loaded and tried first, and used at the end."""

from __future__ import annotations

from dataclasses import replace

from ..core.config import DatasetConfig, Easi3RConfig
from ..core.metric import METRE, in_metres
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..depth.monocular import DepthPrior, TransformersDepth, find_prior, predict, refuse_relative
from ..depth.prior import Predictions, fill_depth, metres_by_prior
from ..network.compute import choose_compute
from ..storage.cache import StageCache


def open_prior(config: Easi3RConfig, log: RunLog) -> DepthPrior | None:
    """The network of ``--depth-prior``, loaded, tried, and released until it is used; None: none is asked for.

    Raises:
        MissingExtraError: transformers is not there.
        CheckpointError: the model cannot be had, is damaged, or of another class.
        MemoryLimitError: it does not fit into memory.
        InputError: --metric, and it predicts no metres.
    """
    if config.depth_prior is None:
        return None
    files = find_prior(config.depth_prior, log)
    log.info(f"--depth-prior {files.name}: {files.architecture}, licence {files.licence}")
    prior = TransformersDepth(files, choose_compute(config.device, "auto", 0).device)
    refuse_relative(prior, config.metric)
    prior.release()
    return prior


def with_prior(
    scene: Scene,
    prior: DepthPrior | None,
    config: Easi3RConfig,
    dataset: DatasetConfig,
    cache: StageCache,
    log: RunLog,
) -> Scene:
    """The finished scene with the depth of the network where none is known; in metres with ``--metric``."""
    if prior is None:
        return scene
    said = predict(scene, prior, cache, log)
    if said.metric:
        scene = _scaled(scene, said, config, dataset, log)
    return fill_depth(scene, said, log)


def _scaled(scene: Scene, said: Predictions, config: Easi3RConfig, dataset: DatasetConfig, log: RunLog) -> Scene:
    """The scene in metres by metric predictions, where that is asked for or nothing else gives it a unit."""
    found = metres_by_prior(scene, said)
    measured = dataset.metric_reference is not None or dataset.camera_height is not None
    if found is None:
        if scene.stays:
            # The camera does not travel, so that the scene has no unit; it takes over that of the network.
            facts = {"unit": METRE, "source": "prior", "model": said.model, "sigma": None, "factor": 1.0}
            return replace(scene, provenance=scene.provenance | {"scale": facts})
        if config.metric:
            log.warn(f"--metric: no depth is known to compare {said.model} with, so the unit stays arbitrary")
        return scene
    if config.metric and measured:
        log.info(
            f"--metric: {said.model} would make one unit {found.factor:.4g} m (1 sigma {100 * found.sigma:.1f} %); "
            "the length that you measured counts"
        )
        return scene
    return in_metres(scene, found, log) if config.metric else scene
