"""Optical flow that is computed once in a run: both looks at what moves follow the same pairs of pictures."""

from __future__ import annotations

import hashlib

import numpy as np

from ...storage.scratch import Scratch
from .provider import FlowProvider, is_parallel


class RememberedFlow:
    """What another estimator gives, kept on disk for the time of the run."""

    def __init__(self, provider: FlowProvider, scratch: Scratch) -> None:
        self.name = provider.name
        self.parallel = is_parallel(provider)
        self.provider, self._scratch = provider, scratch

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """See :class:`~easi3r_ns.motion.flow.provider.FlowProvider`."""
        sha = hashlib.blake2b(f"{self.name} {source.shape}".encode(), digest_size=16)
        for images in (source, target):
            sha.update(np.ascontiguousarray(images).data)
        found = self._scratch.get(sha.digest())
        if found is None:
            found = self.provider.flow(source, target)
            self._scratch.put(sha.digest(), found)
        return found
