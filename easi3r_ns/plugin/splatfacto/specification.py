"""The method that `ns-train` lists: nerfstudio's splatfacto settings with our model, datamanager and dataparser."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields, replace
from functools import cache
from typing import Any, TypeVar

from nerfstudio.plugins.types import MethodSpecification

from ..dataparser import Easi3RDataParserConfig
from .data import Easi3RDatamanagerConfig
from .model import Easi3RSplatfactoModelConfig
from .pipeline import Easi3RPipelineConfig

METHOD = "splatfacto-easi3r"

_Config = TypeVar("_Config")


@cache
def _specification() -> MethodSpecification:
    from nerfstudio.configs.method_configs import method_configs

    # Any: by its annotation the table also holds placeholders for methods that are not installed.
    base: Any = deepcopy(method_configs["splatfacto"])
    datamanager = _extended(base.pipeline.datamanager, Easi3RDatamanagerConfig, dataparser=Easi3RDataParserConfig())
    model = _extended(base.pipeline.model, Easi3RSplatfactoModelConfig)
    pipeline = _extended(base.pipeline, Easi3RPipelineConfig, datamanager=datamanager, model=model)
    return MethodSpecification(
        config=replace(base, method_name=METHOD, pipeline=pipeline),
        description="splatfacto on the static parts of the images (dataset of ns-process-data easi3r)",
    )


def _extended(base: Any, extension: type[_Config], **changes: Any) -> _Config:
    """An ``extension`` of the config ``base`` with all of its settings, except its class and the ``changes``."""
    settings = {f.name: getattr(base, f.name) for f in fields(base) if f.name != "_target"}
    return extension(**settings | changes)


def __getattr__(name: str) -> MethodSpecification:
    if name != "SplatfactoEasi3RSpecification":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # nerfstudio.configs.method_configs loads this specification while it is itself being imported. It is therefore not
    # imported at the top, and here before the cached call, which would otherwise run twice.
    import nerfstudio.configs.method_configs  # noqa: F401

    return _specification()
