"""nerfstudio's pipeline with one option for the depth term, and averages over the images with a static part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE

from ...core.errors import InputError
from .data import Easi3RDatamanagerConfig
from .model import Easi3RSplatfactoModel, Easi3RSplatfactoModelConfig


@dataclass
class Easi3RPipelineConfig(VanillaPipelineConfig):
    """Images, masks and depths of a dataset of `ns-process-data easi3r`, and the model that is trained on them."""

    _target: type = field(default_factory=lambda: Easi3RPipeline)
    datamanager: Easi3RDatamanagerConfig = field(default_factory=Easi3RDatamanagerConfig)
    model: Easi3RSplatfactoModelConfig = field(default_factory=Easi3RSplatfactoModelConfig)


class Easi3RPipeline(VanillaPipeline):
    """nerfstudio's, for :class:`~.model.Easi3RSplatfactoModel`."""

    model: Easi3RSplatfactoModel

    def __init__(self, config: Easi3RPipelineConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(_with_depth(config), *args, **kwargs)

    def get_average_image_metrics(self, data_loader: Iterable, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Average the metrics over the images that have an entirely static window.

        Raises InputError when there is no such image.
        """
        images = list(data_loader)
        measurable = [(camera, batch) for camera, batch in images if self.model.is_measurable(batch)]
        if images and not measurable:
            raise InputError(f"none of {len(images)} images has a static part to be evaluated on: check the masks")
        if left_out := len(images) - len(measurable):
            CONSOLE.print(f"[bold yellow]{left_out} of {len(images)} images have no static part and are left out")
        return super().get_average_image_metrics(measurable, *args, **kwargs)


def _with_depth(config: Easi3RPipelineConfig) -> Easi3RPipelineConfig:
    if config.model.depth_weight == 0:
        return config
    model = replace(config.model, output_depth_during_training=True)
    return replace(config, model=model, datamanager=replace(config.datamanager, load_depths=True))
