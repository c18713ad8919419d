"""Cameras and points that mapping found, as named tensors: the form in which finished stages are kept."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import numpy as np
import torch

from ..core.scene import SparsePoints
from ..refine import Lens, SparseModel
from ..refine.model import FISHEYE, Lenses
from ..storage.cache import Tensors
from ..storage.files import jsonable


def pack_model(model: SparseModel) -> Tensors:
    """A model as a finished stage is kept."""
    tensors = {f"sparse.{f.name}": torch.from_numpy(getattr(model.sparse, f.name)) for f in fields(SparsePoints)}
    lens = _numbers_of(model.lens)
    if model.lenses is not None:
        tensors["lenses"] = torch.tensor([_numbers_of(lens) for lens in model.lenses.lenses], dtype=torch.float64)
        tensors["lens_index"] = torch.from_numpy(model.lenses.index)
    return tensors | {
        "T_world_cam": torch.from_numpy(model.T_world_cam),
        "registered": torch.from_numpy(model.registered),
        "lens": torch.tensor(lens, dtype=torch.float64),
        "fisheye": torch.tensor(model.lens.fisheye),
        "record": torch.frombuffer(bytearray(json.dumps(jsonable(model.record)).encode()), dtype=torch.uint8),
        **({} if model.focals is None else {"focals": torch.from_numpy(model.focals)}),
    }


def _numbers_of(lens: Lens) -> list[float]:
    return [value for entry in asdict(lens).values() for value in np.atleast_1d(entry)]


def unpack_model(tensors: Tensors) -> SparseModel:
    """What :func:`pack_model` was given."""
    kind = FISHEYE if tensors["fisheye"] else "opencv"

    def lens_of(numbers: list[float]) -> Lens:
        width, height, focal, cx, cy, *distortion = numbers
        return Lens(int(width), int(height), focal, (cx, cy)).of_kind(kind).bent(distortion)

    lenses = None
    if "lenses" in tensors:
        lenses = Lenses(tuple(lens_of(row) for row in tensors["lenses"].tolist()), tensors["lens_index"].numpy())
    sparse = SparsePoints(**{f.name: tensors[f"sparse.{f.name}"].numpy() for f in fields(SparsePoints)})
    record = json.loads(bytes(tensors["record"].numpy()))
    focals = tensors["focals"].numpy() if "focals" in tensors else None
    cameras, registered = tensors["T_world_cam"].numpy(), tensors["registered"].numpy()
    return SparseModel(cameras, registered, lens_of(tensors["lens"].tolist()), sparse, focals, record, lenses)
