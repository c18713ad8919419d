"""What a pipeline asks of a network that sees pairs of frames, and DUSt3R's answer."""

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
    """A network over pairs of frames that have been encoded."""

    def attend(self, edges: np.ndarray, sink: AttentionSink, advance: Advance) -> None:
        """Attention of ordered pairs (E, 2) into ``sink``; no points are predicted."""

    def decode(
        self,
        edges: np.ndarray,
        token_masks: np.ndarray | None,
        store: RowStore,
        sink: AttentionSink | None,
        advance: Advance,
    ) -> None:
        """Pointmaps and confidences of ordered pairs (E, 2) into ``store``, attention into ``sink`` if there is one.

        ``token_masks``: (F, h, w) bool, True where a token moves and is silenced; None silences nothing.
        """


class Backbone(Protocol):
    """A network that encodes single frames and decodes pairs of them; only what is being used need be in memory."""

    info: WeightsInfo

    def feature_shape(self, images: np.ndarray) -> Shapes:
        """Of the features of (F, H, W, 3) images: {:data:`~.inference.FEATURES`: (F, N, D)}."""

    def encode_frames(self, images: np.ndarray, compute: Compute, store: RowStore, advance: Advance) -> None:
        """(F, H, W, 3) uint8 -> (F, N, D) features, as rows of :data:`~.inference.FEATURES`."""

    def pair_decoder(self, features: Tensor, grid: Grid, compute: Compute) -> PairDecoder:
        """The network over the pairs of frames with these features (F, N, D); the encoder may be gone."""

    def release(self) -> None:
        """Free the network's memory; it comes back when it is used again."""


class DUSt3RBackbone:
    """DUSt3R as :class:`Backbone`; a subclass says where its halves come from."""

    info: WeightsInfo

    def encoder(self) -> DUSt3R:
        """The network, able to :meth:`~DUSt3R.encode`."""
        raise NotImplementedError

    def decoder(self) -> DUSt3R:
        """The network, able to :meth:`~DUSt3R.decode` and to give its :meth:`~DUSt3R.attention`."""
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
    """A network that stays in memory as a whole."""

    model: DUSt3R
    info: WeightsInfo

    def encoder(self) -> DUSt3R:
        """The network."""
        return self.model

    decoder = encoder
