"""Dense inverse search (DIS) of OpenCV: the optical flow that is always there."""

from __future__ import annotations

import numpy as np

DIS_SMALLEST_SIDE = 64
"""Pixels. DIS needs a few levels of its image pyramid; smaller images are enlarged for it."""


class DISFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) of OpenCV: offline, fast, CPU only."""

    name = "opencv-dis"
    parallel = True
    """It may be asked from several threads at once, which is faster; networks have threads of their own."""

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """See :class:`~easi3r_ns.motion.flow.provider.FlowProvider`."""
        return np.stack([self._one(a, b) for a, b in zip(source, target, strict=True)])

    def _one(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        import cv2

        height, width = source.shape[:2]
        grey = [cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY) for x in (source, target)]
        enlarge = int(np.ceil(DIS_SMALLEST_SIDE / min(height, width)))
        if enlarge > 1:
            size = (width * enlarge, height * enlarge)
            grey = [cv2.resize(x, size, interpolation=cv2.INTER_CUBIC) for x in grey]
        # A fresh object per pair: DIS keeps buffers, and one of them may be used from one thread only.
        field = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)
        if enlarge > 1:
            field = cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA) / enlarge
        return field.astype(np.float32)
