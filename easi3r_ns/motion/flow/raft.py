"""RAFT (Teed and Deng, ECCV 2020) of torchvision: optical flow for GPUs, with weights that are downloaded once."""

from __future__ import annotations

import pickle
import socket
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...core.errors import CheckpointError, shortened
from ...core.runlog import RunLog
from ...network.compute import Compute, in_batches, normalise

if TYPE_CHECKING:
    from torchvision.models.optical_flow import Raft_Large_Weights

STRIDE = 8
"""RAFT works on an eighth of the size."""
SMALLEST_SIDE = 128
"""Its pyramid of correlations has four levels: smaller images are enlarged for it."""
UPDATES = 20
"""Refinements, as in the demonstration of RAFT's authors."""
BYTES_PER_PIXEL = 1000.0
"""Of activations, per pixel of one image: the encoders at half the size, the fields of all refinements."""
BYTES_PER_CORRELATION = 10.0
"""Per pair of positions on the grid of an eighth: a float32 volume, its pyramid, and a copy while it is made."""
DOWNLOAD_SECONDS = 20.0
"""How long the server may be silent during a download."""
LICENCE = "BSD-3-Clause; trained on FlyingChairs, FlyingThings3D, Sintel, KITTI and HD1K, whose own terms hold"


class RAFTFlow:
    """Recurrent all-pairs field transforms: finer than DIS at edges and in large motion; meant for GPUs."""

    name = "torchvision-raft-large"

    def __init__(self, model: nn.Module, compute: Compute) -> None:
        """``model``: torchvision's RAFT, large or small; it is moved to the device of ``compute``."""
        self._model, self._compute = model.eval().requires_grad_(False).to(compute.device), compute

    @torch.inference_mode()
    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """See :class:`~easi3r_ns.motion.flow.provider.FlowProvider`; in batches that fit the device.

        Raises:
            InputError: a single pair does not fit.
        """
        height, width = source.shape[1:3]
        result = np.empty((len(source), height, width, 2), dtype=np.float32)
        enlarge = -(-SMALLEST_SIDE // min(height, width))
        grid = [-(-side * enlarge // STRIDE) for side in (height, width)]

        def estimate(rows: slice) -> None:
            first, second = (self._prepare(images[rows], enlarge) for images in (source, target))
            field = self._model(first, second, num_flow_updates=UPDATES)[-1]
            result[rows] = self._restore(field, enlarge, (height, width)).permute(0, 2, 3, 1).cpu().numpy()

        positions = grid[0] * grid[1]
        item = BYTES_PER_PIXEL * positions * STRIDE**2 + BYTES_PER_CORRELATION * positions**2
        in_batches(len(source), self._compute.batch_for(positions, item), estimate)
        return result

    def _prepare(self, images: np.ndarray, enlarge: int) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H', W') in [-1, 1], enlarged, then padded to multiples of the stride."""
        values = normalise(images, self._compute.device)
        if enlarge > 1:
            values = functional.interpolate(values, scale_factor=enlarge, mode="bicubic", align_corners=False)
        return functional.pad(values, padding(values.shape[2], values.shape[3]), mode="replicate")

    @staticmethod
    def _restore(field: Tensor, enlarge: int, size: tuple[int, int]) -> Tensor:
        """(B, 2, H', W') -> (B, 2, H, W): undoes :meth:`_prepare`."""
        height, width = (side * enlarge for side in size)
        left, _, top, _ = padding(height, width)
        field = field[:, :, top : top + height, left : left + width]
        return functional.avg_pool2d(field, enlarge) / enlarge if enlarge > 1 else field


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) pixels that make both sides multiples of the stride, shared out evenly."""
    across, down = -width % STRIDE, -height % STRIDE
    return across // 2, across - across // 2, down // 2, down - down // 2


def load_raft(compute: Compute, log: RunLog) -> RAFTFlow:
    """RAFT (large) with the weights of torchvision, from torch's cache or downloaded into it.

    A damaged file is fetched anew.

    Raises:
        RaftMissingError: no connection, or a failed download; with the ways on.
        CheckpointError: the downloaded file is damaged too.
    """
    path = weights_path()
    if path.is_file():
        try:
            return RAFTFlow(_read(path), compute)
        except CheckpointError as error:
            log.warn(f"{error}; it is fetched anew")
            _download(path, log, f"{path} is damaged")
    else:
        _download(path, log, "its weights are not on this machine")
    return RAFTFlow(_read(path), compute)


def fetch_raft(log: RunLog) -> Path:
    """The weight file of RAFT, downloaded where it is missing or damaged. Raises as :func:`load_raft`."""
    load_raft(Compute(torch.device("cpu")), log)
    return weights_path()


def _read(path: Path) -> nn.Module:
    from torchvision.models.optical_flow import raft_large

    model = raft_large(weights=None)
    try:
        # torchvision reads a cached file as an arbitrary pickle; tensors are all it may hold.
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged or holds another network ({_first_line(error)})") from error
    return model


def weights_path() -> Path:
    """Where torch's cache keeps (or would keep) the weights of RAFT."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(_weights().url).path).name


def download_megabytes() -> float:
    """Size of the weights of RAFT in MB."""
    return _weights().meta["_file_size"]


def _weights() -> Raft_Large_Weights:
    from torchvision.models.optical_flow import Raft_Large_Weights

    return Raft_Large_Weights.C_T_SKHT_V2


def _download(path: Path, log: RunLog, state: str) -> None:
    """Fetch the weights as torchvision's own loader does, which would also write to stdout."""
    weights = _weights()
    url, size = weights.url, download_megabytes()
    if not urllib.request.getproxies().keys() - {"no"} and not _known_host(url):  # "no": NO_PROXY
        raise RaftMissingError(path, state, "there is no connection to the server of the weights")
    log.info(f"downloading {url} ({size} MB; licence: {LICENCE}); it is kept for later runs")
    waits = socket.getdefaulttimeout()
    try:
        # torch gives no time limit to the connection, so that a silent server would be waited for without end.
        socket.setdefaulttimeout(DOWNLOAD_SECONDS)
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = path.stem.rsplit("-", 1)[1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
    except (OSError, RuntimeError, HTTPException, ValueError) as error:  # RuntimeError: the hash differs
        raise RaftMissingError(path, state, f"the download failed: {_first_line(error)}") from error
    finally:
        socket.setdefaulttimeout(waits)


def _first_line(error: Exception) -> str:
    return shortened(str(error)) or type(error).__name__


def _known_host(url: str) -> bool:
    """False when the server's name cannot even be looked up; spares the user minutes of waiting."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return False
    return True


class RaftMissingError(CheckpointError):
    """The weights of RAFT are not on this machine, or damaged, and cannot be downloaded."""

    def __init__(self, path: Path, state: str, reason: str) -> None:
        self.reason = f"{state} and {reason}"
        super().__init__(
            f"--flow raft: {self.reason}. Fetch {_weights().url} ({download_megabytes()} MB) on a machine with network "
            f"and put it at {path}; or use --flow dis, which needs no download"
        )
