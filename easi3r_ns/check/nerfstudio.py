"""nerfstudio 1.1.5, by its own loaders: ``nerfstudio-data`` for ``transforms.json``, ``colmap`` for a COLMAP model."""

from __future__ import annotations

from ..core.errors import OutputError
from ..core.runlog import RunLog
from ..dataset.loadback import load_colmap, load_dataset
from ..dataset.nerfstudio import TRANSFORMS
from .consumer import Consumer, RuleResult, failed, note, passed
from .depth_sources import sources_fit
from .objects import objects_fit
from .tree import Tree

_MODELS = ("colmap/sparse/0", "sparse/0", "sparse")


def _examine(tree: Tree) -> list[RuleResult]:
    beside: list[RuleResult] = []
    log, model = RunLog(), tree.first_model(*_MODELS)
    try:
        if tree.has(TRANSFORMS):
            count = len(tree.json(TRANSFORMS)["frames"])
            load_dataset(tree.root, log, sample=tree.sample)
            whole = "all frames" if tree.sample is None or tree.sample >= count else f"{tree.sample} frames"
            meta = tree.json(TRANSFORMS)
            beside = objects_fit(tree, meta) + sources_fit(tree, meta)
            what = f"nerfstudio-data loads all splits and sizes; every pixel of {whole} was read"
        elif model is not None:
            tree.model(model)
            load_colmap(tree.root, model)
            what = f"the dataparser colmap loads it (--colmap-path {model} --downscale-factor 1)"
        else:
            return [failed(f"neither {TRANSFORMS} nor a model in {_MODELS[0]}", "give the --output-dir of a run")]
    except OutputError as error:
        return [failed(str(error), "mend what the line names, or write the dataset again")]
    return [passed(what), *beside, *(note(text) for text in log.warnings)]


CONSUMER = Consumer(
    title="nerfstudio 1.1.5",
    fits=lambda tree: tree.has(TRANSFORMS) or bool(tree.first_model(*_MODELS) and tree.inside("images")),
    examine=_examine,
    formats=(),
    by="loader",
)
