"""A network of which only the half that is needed is in memory: first the encoder, then decoders and heads."""

from __future__ import annotations

import torch

from ..core.runlog import RunLog
from .backbone import DUSt3RBackbone
from .model import DUSt3R
from .weights import Part, WeightsInfo, build_backbone, load_part, release_part


class LazyBackbone(DUSt3RBackbone):
    """Hands out the network with one half loaded; asking for the other half frees the first."""

    def __init__(
        self, model: DUSt3R, info: WeightsInfo, device: torch.device, log: RunLog, dtype: torch.dtype = torch.float32
    ) -> None:
        self.info = info
        self._model, self._device, self._log, self._dtype = model, device, log, dtype
        self._loaded: Part | None = None

    @classmethod
    def open(cls, spec: str, *, device: torch.device, log: RunLog, dtype: torch.dtype = torch.float32) -> LazyBackbone:
        """Find and check the weights ``spec`` (see :func:`~easi3r_ns.network.weights.resolve`); loads nothing yet.

        ``dtype``: of the transformer blocks, see :func:`~easi3r_ns.network.weights.load_part`.
        """
        model, info = build_backbone(spec, log=log)
        return cls(model, info, device, log, dtype)

    def encoder(self) -> DUSt3R:
        """The network, able to :meth:`~DUSt3R.encode`."""
        return self._load("encoder")

    def decoder(self) -> DUSt3R:
        """The network, able to :meth:`~DUSt3R.decode` and to give its :meth:`~DUSt3R.attention`."""
        return self._load("decoder")

    def release(self) -> None:
        """Free what is loaded."""
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
