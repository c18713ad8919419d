"""The interface between a pipeline and a network over pairs of frames, and its implementation for DUSt3R."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ..storage.rows import RowStore, Shapes
from .compute import Compute
from .inference import Advance, AttentionSink, PairNetwork, encode_into, feature_shape
from .model import DUSt3R, Grid
from .weights import WeightsInfo


class PairDecoder(Protocol):
    """Decodes pairs of frames from the features of the single frames."""

    def attend(self, edges: np.ndarray, sink: AttentionSink, advance: Advance) -> None:
        """Compute the attention of ordered pairs (E, 2) and add it to ``sink``; no points are predicted."""

    def decode(
        self,
        edges: np.ndarray,
        token_masks: np.ndarray | None,
        store: RowStore,
        sink: AttentionSink | None,
        advance: Advance,
    ) -> None:
        """Write pointmaps and confidences of ordered pairs (E, 2) to ``store`` and add their attention to ``sink``.

        Args:
            token_masks: (F, h, w) bool, True where a token moves; the attention to these tokens is masked. None masks
                nothing.
            sink: None if the attention is not needed.
        """


class Backbone(Protocol):
    """A network that encodes single frames and decodes pairs of them.

    An implementation may keep only the part in memory that is in use.
    """

    info: WeightsInfo

    def feature_shape(self, images: np.ndarray) -> Shapes:
        """Shape of the features of (F, H, W, 3) images: {:data:`~.inference.FEATURES`: (F, N, D)}."""

    def encode_frames(self, images: np.ndarray, compute: Compute, store: RowStore, advance: Advance) -> None:
        """Encode (F, H, W, 3) uint8 images and write (F, N, D) features as rows of :data:`~.inference.FEATURES`."""

    def pair_decoder(self, features: Tensor, grid: Grid, compute: Compute) -> PairDecoder:
        """The decoder of pairs of the frames with these features (F, N, D); the encoder is not needed for it."""

    def release(self) -> None:
        """Free the network's memory; the next use loads the weights again."""


class DUSt3RBackbone:
    """DUSt3R as :class:`Backbone`; a subclass provides the model with encoder or decoder weights loaded."""

    info: WeightsInfo

    def encoder(self) -> DUSt3R:
        """The network with the weights that :meth:`~.model.DUSt3R.encode` needs."""
        raise NotImplementedError

    def decoder(self) -> DUSt3R:
        """The network with the weights that :meth:`~.model.DUSt3R.decode` and :meth:`~.model.DUSt3R.attention` need."""
        raise NotImplementedError

    def release(self) -> None:
        """See :meth:`Backbone.release`."""

    def feature_shape(self, images: np.ndarray) -> Shapes:
        """See :meth:`Backbone.feature_shape`."""
        return feature_shape(self.encoder(), images)

    def encode_frames(self, images: np.ndarray, compute: Compute, store: RowStore, advance: Advance) -> None:
        """See :meth:`Backbone.encode_frames`."""
        encode_into(self.encoder(), images, compute, store, advance)

    def pair_decoder(self, features: Tensor, grid: Grid, compute: Compute) -> PairNetwork:
        """See :meth:`Backbone.pair_decoder`."""
        return PairNetwork(self.decoder(), features, grid, compute)


@dataclass(frozen=True)
class LoadedBackbone(DUSt3RBackbone):
    """A backbone whose whole network stays in memory."""

    model: DUSt3R
    info: WeightsInfo

    def encoder(self) -> DUSt3R:
        """The network."""
        return self.model

    decoder = encoder
