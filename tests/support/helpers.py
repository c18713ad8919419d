"""Shared by the tests: where golden numbers and real clips lie, procedural weights."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import DUSt3R

GOLDEN = Path(__file__).parents[1] / "golden"


def shared_data() -> Path:
    """The folder of real clips (not part of the repository), or a skip with a message."""
    folder = Path(os.environ.get("EASI3R_NS_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}: set EASI3R_NS_SHARED to the folder that holds data/")
    return folder


def golden_config(name: str) -> DUSt3RConfig:
    """The network of ``tests/golden/tiny_model/NAME_config.json``."""
    raw = json.loads((GOLDEN / "tiny_model" / f"{name}_config.json").read_text())
    fields = {key: raw[key] for key in raw if key in DUSt3RConfig.__dataclass_fields__}
    dpt = raw.get("_dpt_head_overrides", {})
    sizes = {"dpt_feature_dim": "feature_dim", "dpt_last_dim": "last_dim", "dpt_layer_dims": "layer_dims"}
    fields |= {ours: tuple(np.atleast_1d(dpt[theirs])) for ours, theirs in sizes.items() if theirs in dpt}
    for key in ("dpt_feature_dim", "dpt_last_dim"):
        if key in fields:
            fields[key] = int(fields[key][0])
    if "dpt_layer_dims" in fields:
        fields["dpt_layer_dims"] = tuple(int(d) for d in fields["dpt_layer_dims"])
    return DUSt3RConfig(**fields)


def procedural_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The golden networks' weights: a pure function of the parameter's name (golden README, section A)."""
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) >= 2:
        gain = 0.2 if key.endswith("dpt.head.4.weight") else 1.0
        gain = 0.5 if key.startswith("downstream_head") and key.endswith(".proj.weight") else gain
        return torch.from_numpy((gain * noise / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
    value = 1 + 0.1 * noise if key.endswith(".weight") else 0.1 * noise
    return torch.from_numpy(value.astype(np.float32))


def golden_model(name: str) -> DUSt3R:
    """A golden network with its procedural weights."""
    model = DUSt3R(golden_config(name)).eval()
    model.load_state_dict({key: procedural_weight(key, tuple(v.shape)) for key, v in model.state_dict().items()})
    return model


def load_golden(*parts: str) -> dict[str, np.ndarray]:
    """The arrays of ``tests/golden/PARTS.npz``."""
    with np.load(GOLDEN.joinpath(*parts).with_suffix(".npz")) as archive:
        return {name: archive[name] for name in archive.files}


class Lines(RunLog):
    """Collects what is said beside the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)


@dataclass(frozen=True)
class Sim3:
    """Similarity that takes ``source`` points to ``target`` points: target = scale * R source + t."""

    scale: float
    R: np.ndarray
    t: np.ndarray
    rmse: float
    """Root mean square distance after alignment (the ATE, for camera centres)."""


def align_sim3(source: np.ndarray, target: np.ndarray) -> Sim3:
    """Least-squares similarity between two (N, 3) point sets (Umeyama 1991)."""
    centred_s, centred_t = source - source.mean(axis=0), target - target.mean(axis=0)
    U, D, Vt = np.linalg.svd(centred_t.T @ centred_s / len(source))
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = U @ np.diag(flip) @ Vt
    scale = (D * flip).sum() / centred_s.var(axis=0).sum()
    residual = centred_t - scale * centred_s @ R.T
    t = target.mean(axis=0) - scale * R @ source.mean(axis=0)
    return Sim3(float(scale), R, t, float(np.sqrt((residual**2).sum(axis=1).mean())))


def npz_that_announces(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """An .npz file of some hundred bytes with the header of a float32 array of any shape."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
