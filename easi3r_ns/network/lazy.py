"""A backbone that holds either the encoder or the decoders and heads in memory, whichever is in use."""

from __future__ import annotations

import torch

from ..core.runlog import RunLog
from .backbone import DUSt3RBackbone
from .model import DUSt3R
from .weights import Part, WeightsInfo, build_backbone, load_part, release_part


class LazyBackbone(DUSt3RBackbone):
    """The network with one part of its weights loaded; requesting the other part frees the first."""

    def __init__(
        self, model: DUSt3R, info: WeightsInfo, device: torch.device, log: RunLog, dtype: torch.dtype = torch.float32
    ) -> None:
        self.info = info
        self._model, self._device, self._log, self._dtype = model, device, log, dtype
        self._loaded: Part | None = None

    @classmethod
    def open(cls, spec: str, *, device: torch.device, log: RunLog, dtype: torch.dtype = torch.float32) -> LazyBackbone:
        """Find and check the weights ``spec`` (:func:`~easi3r_ns.network.sources.resolve`) without loading them.

        Args:
            dtype: precision of the transformer blocks, see :func:`~easi3r_ns.network.weights.load_part`.

        Raises:
            CheckpointError: the weights are missing, unreadable, or do not fit the network.
        """
        model, info = build_backbone(spec, log=log)
        return cls(model, info, device, log, dtype)

    def encoder(self) -> DUSt3R:
        """The network with the weights that :meth:`~.model.DUSt3R.encode` needs."""
        return self._load("encoder")

    def decoder(self) -> DUSt3R:
        """The network with the weights that :meth:`~.model.DUSt3R.decode` and :meth:`~.model.DUSt3R.attention` need."""
        return self._load("decoder")

    def release(self) -> None:
        """Free the weights that are loaded; the next use loads them again."""
        if self._loaded is not None:
            release_part(self._model, self._loaded)
            self._loaded = None

    def _load(self, part: Part) -> DUSt3R:
        if self._loaded != part:
            self.release()
            with self._log.stage(f"load {part}"):
                load_part(self._model, self.info.source, part, device=self._device, dtype=self._dtype)
            self._loaded = part
        return self._model
