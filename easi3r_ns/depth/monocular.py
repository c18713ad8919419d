"""Networks that predict depth from one picture: Depth Anything V2 (Yang et al., NeurIPS 2024; relative and metric) and
Depth Pro (Bochkovskii et al., ICLR 2025), through the library transformers.

Both are given pictures as their authors evaluate them, from our own code: a folder needs config.json and the weights
only.
"""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..core.errors import InputError
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import on_side, upright_again
from ..frames.preprocess import enlarged, resize_and_crop
from ..network.models import ModelFiles, Role, find_model, load_model, one_line_when_full, require_transformers
from ..storage.cache import StageCache, digest
from ..storage.files import read_png
from ..storage.fingerprint import files_of, fingerprint
from .prior import Predictions

ANYTHING, PRO = "DepthAnythingForDepthEstimation", "DepthProForDepthEstimation"
ROLE = Role(
    "--depth-prior",
    (ANYTHING, PRO),
    (
        "depth-anything",
        "depth-anything-base",
        "depth-anything-large",
        "depth-anything-indoor",
        "depth-anything-outdoor",
        "depth-pro",
    ),
    "leave out --depth-prior",
)
STAGE = "depth prior"
_IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
_MOST_TIMES = 4
"""Pictures are read at so many times the scene's grid at most."""


class DepthPrior(Protocol):
    """Predicts depth from single pictures."""

    metric: bool
    side: int
    """Pixels of the shorter side that it wants."""

    @property
    def facts(self) -> dict[str, str]:
        """``model`` and ``licence``, and what else a dataset says of it; decides what is kept of its results."""

    def __call__(self, image: np.ndarray, focal: float) -> np.ndarray:
        """(h, w, 3) uint8 RGB, upright, and its focal length in pixels -> (h', w') float32, larger is nearer.

        Metric: 1 / z-depth in metres; else the inverse z-depth up to an affine function.
        """

    def release(self) -> None:
        """Free its memory."""


class TransformersDepth:
    """:class:`DepthPrior` of the classes in :data:`ROLE`."""

    def __init__(self, files: ModelFiles, device: torch.device) -> None:
        """Load it and try it on one picture of its size, so that what does not fit fails before the long work.

        Raises:
            Easi3RError: see :func:`~easi3r_ns.network.models.load_model`.
        """
        self.files, self._device = files, device
        self._content = fingerprint(files_of(files.folder))
        self._model: Any = load_model(ROLE, files, device)
        config = self._model.config
        self._pro = files.architecture == PRO
        self.metric = self._pro or config.depth_estimation_type == "metric"
        if self._pro:
            self.side = round(int(config.patch_size) / min(config.scaled_images_ratios))
            self._multiple = self.side
        else:
            self.side = int(config.backbone_config.image_size)
            self._multiple = int(config.patch_size)
        self(np.zeros((3 * self.side // 4, self.side, 3), np.uint8), float(self.side))

    @property
    def facts(self) -> dict[str, str]:
        """See :attr:`DepthPrior.facts`."""
        return dict(self.files.provenance) | {"content": self._content}

    def __call__(self, image: np.ndarray, focal: float) -> np.ndarray:
        """See :meth:`DepthPrior.__call__`."""
        if self._model is None:
            self._model = load_model(ROLE, self.files, self._device)
        pixels = torch.from_numpy(self._prepared(image)).to(self._device)
        with one_line_when_full(ROLE, self.files.name, "choose a smaller model, or --device cpu"), torch.no_grad():
            predicted = self._model(pixel_values=pixels).predicted_depth[0].float().cpu().numpy()
        if self._pro:
            # Depth Pro predicts the inverse depth of a camera whose focal length is the picture's width.
            return (np.maximum(predicted, 1e-4) * (image.shape[1] / focal)).astype(np.float32)
        if self.metric:
            return (1 / np.maximum(predicted, 1e-3)).astype(np.float32)
        return predicted

    def release(self) -> None:
        """See :meth:`DepthPrior.release`; another call loads it again."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        """(1, 3, h, w) float32: the picture in the size and the range of values that the network was trained with."""
        if self._pro:
            resized = Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BILINEAR)
            mean, deviation = np.full(3, 0.5, np.float32), np.full(3, 0.5, np.float32)
        else:
            resized = Image.fromarray(image).resize(self._size(*image.shape[:2]), Image.Resampling.BICUBIC)
            mean, deviation = _IMAGENET
        values = (np.asarray(resized, dtype=np.float32) / 255 - mean) / deviation
        return np.ascontiguousarray(values.transpose(2, 0, 1))[None]

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """(width, height): the shorter side has :attr:`side` pixels, both are whole patches."""
        scale = self.side / min(height, width)
        across, down = (max(1, round(scale * v / self._multiple)) * self._multiple for v in (width, height))
        return across, down


def find_prior(spec: str, log: RunLog, *, download: bool = True) -> ModelFiles:
    """The files of ``--depth-prior``, and that the library is there to read them.

    Raises:
        Easi3RError: see :func:`~easi3r_ns.network.models.find_model`.
    """
    require_transformers(ROLE, spec)
    return find_model(ROLE, spec, log, download=download)


def refuse_relative(prior: DepthPrior, metric: bool) -> None:
    """Raises InputError where metres are asked of a network that gives none."""
    if metric and not prior.metric:
        raise InputError(
            f"--metric: {prior.facts['model']} predicts depth without a unit; use --depth-prior depth-anything-indoor, "
            "depth-anything-outdoor or depth-pro, or measure a length (--metric-reference, --camera-height)"
        )


def predict(scene: Scene, prior: DepthPrior, cache: StageCache, log: RunLog) -> Predictions:
    """What a network says of every frame of a scene, on the scene's grid; pictures are read from their sources.

    Raises:
        MemoryLimitError: it does not fit into memory.
    """
    times = _times(scene, prior.side)
    facts = prior.facts

    def compute() -> dict[str, torch.Tensor]:
        found = np.zeros_like(scene.depth)
        with log.stage(STAGE, len(scene)) as advance:
            for frame in range(len(scene)):
                found[frame] = _of_frame(scene, frame, prior, times)
                advance(1)
        prior.release()
        return {"inverse": torch.from_numpy(found)}

    decides = {name: fact for name, fact in facts.items() if name != "model"}  # how it was called does not
    key = digest(scene.images, scene.focals, decides, times, scene.pixel_map, __version__)
    inverse = cache.stage("depth-prior", key, compute)["inverse"].numpy()
    prior.release()
    return Predictions(inverse, prior.metric, facts["model"], facts["licence"])


def _times(scene: Scene, side: int) -> int:
    """By how much pictures are enlarged against the scene's grid, at most to the size of the source."""
    shorter = min(scene.images.shape[1:3])
    most = max(1, min(_MOST_TIMES, int(1 / min(scene.pixel_map.scale_xy))))
    return int(np.clip(round(side / shorter), 1, most))


def _of_frame(scene: Scene, frame: int, prior: DepthPrior, times: int) -> np.ndarray:
    """(H, W) float32 on the scene's grid; a picture that lies on its side is shown upright."""
    image = scene.images[frame]
    turned = scene.turned is not None and bool(scene.turned[frame])
    if times > 1:
        image = resize_and_crop(read_png(scene.source_paths[frame]), enlarged(scene.pixel_map, times))
    shown = upright_again(image) if turned else image
    predicted = prior(shown, times * float(scene.focals_xy[frame][1 if turned else 0]))
    predicted = on_side(predicted) if turned else predicted
    height, width = scene.depth.shape[1:]
    return cv2.resize(predicted, (width, height), interpolation=cv2.INTER_LINEAR)
