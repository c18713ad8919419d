"""Depth of what stands still, by what ``--stereo`` asks for."""

from __future__ import annotations

from dataclasses import replace

from ..core.config import Easi3RConfig
from ..core.runlog import RunLog, resident_memory_bytes
from ..core.scene import Scene
from ..depth.choose import Stereo, choose_stereo
from ..depth.stereo import stereo_depth
from ..network.compute import choose_compute
from ..plan.limits import sweep_threads
from ..refine.dense import patch_match_refusal, run_patch_match
from ..storage.cache import StageCache


def stereo_of(config: Easi3RConfig) -> Stereo:
    """What measures depth here.

    Raises:
        MissingExtraError: --stereo patchmatch cannot be used.
        InputError: --device is not there, or --stereo contradicts it.
    """
    device = choose_compute(config.device, "auto", 0).device
    asked = config.stereo == "patchmatch" or (config.stereo == "auto" and device.type == "cuda")
    refusal = patch_match_refusal() if asked else "it is not asked for"
    usable = run_patch_match if refusal is None else None
    return choose_stereo(config.stereo, device, usable, refusal)


def measured_depth(
    scene: Scene, config: Easi3RConfig, cache: StageCache, log: RunLog, *, stage: str = "stereo"
) -> Scene:
    """:func:`~easi3r_ns.depth.stereo.stereo_depth` as the options ask for it; the provenance says what measured."""
    how = stereo_of(config)
    threads = sweep_threads(config.max_memory, scene.depth[0].size, resident_memory_bytes())
    how = replace(how, threads=threads)
    log.info(f"depth by stereo: {how}")
    found = stereo_depth(scene, log, cache, how=how, stage=stage)
    return replace(found, provenance=found.provenance | {"stereo": str(how)})
