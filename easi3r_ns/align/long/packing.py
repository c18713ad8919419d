"""The result of an alignment as named tensors and back, for keeping it on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

from ..align import AlignDiagnostics, AlignResult

_DIAGNOSTICS = "diagnostics"
"""Name of the diagnostics: JSON text as uint8, because they are no array."""


def pack_result(result: AlignResult) -> dict[str, torch.Tensor]:
    """Every array of the result by its name, those of an inner dataclass as ``field.name``; None is left out."""
    tensors = {_DIAGNOSTICS: _text(asdict(result.diagnostics))}
    for f in fields(result):
        value = getattr(result, f.name)
        if isinstance(value, np.ndarray):
            tensors[f.name] = torch.from_numpy(np.ascontiguousarray(value))
        elif is_dataclass(value) and f.name != _DIAGNOSTICS:
            inner = {name: np.ascontiguousarray(getattr(value, name)) for name in value.__dataclass_fields__}
            tensors |= {f"{f.name}.{name}": torch.from_numpy(array) for name, array in inner.items()}
    return tensors


def unpack_result(tensors: dict[str, torch.Tensor]) -> AlignResult:
    """The inverse of :func:`pack_result`; other tensors are ignored. The arrays share the memory of the tensors."""
    hints: dict[str, Any] = get_type_hints(AlignResult)
    values: dict[str, Any] = {_DIAGNOSTICS: AlignDiagnostics(**_tuples(_json(tensors[_DIAGNOSTICS])))}
    for f in fields(AlignResult):
        inner = {name[len(f.name) + 1 :]: t.numpy() for name, t in tensors.items() if name.startswith(f"{f.name}.")}
        if inner:
            kind: Any = next(k for k in (hints[f.name], *get_args(hints[f.name])) if is_dataclass(k))
            values[f.name] = kind(**inner)
        elif f.name in tensors and f.name != _DIAGNOSTICS:
            values[f.name] = tensors[f.name].numpy()
    return AlignResult(**values)


def _text(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _json(text: torch.Tensor) -> Any:
    return json.loads(bytes(text.numpy()).decode())


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, which the diagnostics consist of."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
