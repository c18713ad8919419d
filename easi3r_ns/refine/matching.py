"""Which pairs of frames are matched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EXHAUSTIVE_FRAMES = 60
"""Clips of up to this many frames are matched exhaustively."""
NEIGHBOURS = 10
"""Neighbours in time of a frame in longer clips; frames 2^k further on come on top."""
LOOKALIKES = 5
"""Frames elsewhere in the clip that look most like a frame and are matched with it."""
FEW = 12, 3, 2
"""The same three numbers where a pair takes seconds."""

_WORDS = 64
_SAMPLES = 200
"""Descriptors per frame that represent it."""


def choose_pairs(
    descriptors: Sequence[np.ndarray], seed: int, clip: np.ndarray | None = None, *, few: bool = False
) -> np.ndarray:
    """(P, 2) int64 sorted pairs i < j: all of them in short clips, else neighbours in time and frames that look alike.

    Args:
        descriptors: F arrays (K_f, 128).
        clip: (F,) which of several clips each frame is from: neighbours are of one clip, and a frame is also matched
            with those of the other clips that look most like it. None: there is one.
        few: match fewer pairs, because each takes seconds.
    """
    n = len(descriptors)
    exhaustive, neighbours, lookalikes = FEW if few else (EXHAUSTIVE_FRAMES, NEIGHBOURS, LOOKALIKES)
    if n <= exhaustive:
        return np.stack(np.triu_indices(n, 1), axis=1)
    of_one = np.ones((n, n), dtype=bool) if clip is None else np.equal.outer(clip, clip)
    far = [2**k for k in range(2, int(np.log2(n)) + 1) if 2**k > neighbours]
    offsets = [*range(1, neighbours + 1), *far]
    pairs = {(i, i + d) for d in offsets for i in range(n - d) if of_one[i, i + d]}
    alike = likeness(descriptors, seed)
    near = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= neighbours
    alike[near & of_one] = -np.inf
    for allowed in (of_one | ~of_one, ~of_one):
        found = np.where(allowed, alike, -np.inf)
        for i, row in enumerate(np.argsort(-found, axis=1, kind="stable")[:, :lookalikes]):
            pairs |= {(min(i, j), max(i, j)) for j in row.tolist() if np.isfinite(found[i, j])}
    return np.array(sorted(pairs), dtype=np.int64)


def likeness(descriptors: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """(F, F) cosines between VLAD vectors (Jegou et al., CVPR 2010) over a vocabulary made of the clip itself."""
    from sklearn.cluster import MiniBatchKMeans

    # COLMAP lists the largest keypoints last, and :mod:`.learned` the surest.
    rows = [d[-_SAMPLES:].astype(np.float32) for d in descriptors]
    pool = np.concatenate(rows)
    words = min(_WORDS, max(1, len(pool) // 4))
    codebook = MiniBatchKMeans(words, random_state=seed, n_init=1, batch_size=2048).fit(pool)
    vectors = np.zeros((len(rows), words, pool.shape[1]))
    for frame, own in enumerate(rows):
        if len(own):
            nearest = codebook.predict(own)
            np.add.at(vectors[frame], nearest, own - codebook.cluster_centers_[nearest])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-9)
    flat = vectors.reshape(len(rows), -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return flat @ flat.T
