"""Reads checkpoint files: architecture, names and tensors. Nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import CheckpointError, shown
from ..storage import foreign
from .config import DUSt3RConfig
from .sources import PICKLE_SUFFIXES, WeightsSource

logger = logging.getLogger(__name__)

# Defaults of the constructors of CroCo and DUSt3R as published, for arguments that a checkpoint does not name.
_DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "enc_embed_dim": 768,
    "enc_depth": 12,
    "enc_num_heads": 12,
    "dec_embed_dim": 512,
    "dec_depth": 8,
    "dec_num_heads": 16,
    "mlp_ratio": 4,
    "norm_im2_in_dec": True,
    "pos_embed": "cosine",
    "head_type": "linear",
    "output_mode": "pts3d",
    "depth_mode": ("exp", -math.inf, math.inf),
    "conf_mode": ("exp", 1, math.inf),
    "patch_embed_cls": "PatchEmbedDust3R",
}
# The supported values of each field; the published code allows more.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "norm_im2_in_dec": (True,),
    "pos_embed": ("RoPE100",),
    "head_type": ("dpt", "linear"),
    "output_mode": ("pts3d",),
    "depth_mode": (("exp", -math.inf, math.inf),),
    "conf_mode": (("exp", 1, math.inf),),
    "patch_embed_cls": ("PatchEmbedDust3R", "ManyAR_PatchEmbed"),
}
_WITHOUT_EFFECT = {"freeze", "landscape_only", "mask_ratio"}
_COPIED = (
    "patch_size enc_embed_dim enc_depth enc_num_heads dec_embed_dim dec_depth dec_num_heads mlp_ratio head_type"
).split()
_OWN_FIELDS = {field.name: field for field in dataclasses.fields(DUSt3RConfig)}

# What ast.parse and _literal raise for text that is no literal; Python reports too deep nesting as MemoryError.
_NOT_LITERAL = (SyntaxError, ValueError, RecursionError, MemoryError)
_UNUSED = re.compile(r"mask_token$|prediction_head\.|.*\.act_[1-4]_postprocess\.")
_TIED = re.compile(r"(.*\.scratch\.)layer_rn\.([0-3])\.(.*)")


def read_config(source: WeightsSource) -> DUSt3RConfig:
    """Architecture from ``config.json``, or from the ``args.model`` text of a ``.pth``.

    Raises:
        CheckpointError: the file is unreadable, or asks for an option that is not supported; the message names it.
    """
    if source.config_path is not None:
        return config_from_fields(read_json(source.config_path), str(source.config_path))
    model_text = getattr(_load_pickle(source.path).get("args"), "model", None)
    if not isinstance(model_text, str):
        raise CheckpointError(
            f"{source.path}: it holds no 'args.model', and no config.json lies beside it; put the checkpoint's "
            "config.json beside it"
        )
    return config_from_fields(parse_constructor(model_text, str(source.path)), str(source.path))


def config_from_fields(fields: Mapping[str, Any], origin: str) -> DUSt3RConfig:
    """Architecture from the constructor arguments of the published code, or from fields of :class:`DUSt3RConfig`.

    Args:
        origin: file name for error messages.

    Raises:
        CheckpointError: a field is unknown or has an unsupported value; the message names both.
    """
    try:
        if "img_size" in fields or "pos_embed" in fields:
            return _published_config(fields, origin)
        if unknown := sorted(set(fields) - set(_OWN_FIELDS)):
            raise CheckpointError(
                f"{origin}: unknown fields {', '.join(unknown)}; the known ones are {', '.join(_OWN_FIELDS)}"
            )
        return DUSt3RConfig(**{name: _tuples(value) for name, value in fields.items()})
    except (TypeError, *_NOT_LITERAL) as error:
        raise CheckpointError(f"{origin}: {error}; fetch the config that belongs to the weights") from error


def _published_config(fields: Mapping[str, Any], origin: str) -> DUSt3RConfig:
    values = _DEFAULTS | {name: _tuples(value) for name, value in fields.items()}
    for name, supported in _SUPPORTED.items():
        if values[name] not in supported:
            choices = " or ".join(repr(value) for value in supported)
            raise CheckpointError(f"{origin}: {name} = {shown(values[name])} is not supported, only {choices}")
    own = {name: values[name] for name in _COPIED}
    image_size = max(_pair(values["img_size"]))
    head = _head_sizes(fields.get("_dpt_head_overrides"))
    extra = {name: values[name] for name in _OWN_FIELDS if name in fields and name not in own}
    ignored = set(fields) - set(_DEFAULTS) - _WITHOUT_EFFECT - set(_OWN_FIELDS)
    if ignored := sorted(name for name in ignored if not name.startswith("_")):
        logger.warning("%s: unknown fields are ignored: %s", origin, ", ".join(ignored))
    return DUSt3RConfig(**{"image_size": image_size, "square": image_size == 224} | own | head | extra)


def _head_sizes(overrides: Any) -> dict[str, Any]:
    """The fields of :class:`DUSt3RConfig` that ``_dpt_head_overrides`` of our own published files sets."""
    if overrides is None:
        return {}
    own = {name: f"dpt_{name}" for name in ("feature_dim", "last_dim", "layer_dims")}
    if not isinstance(overrides, dict) or not set(overrides) <= set(own):
        raise ValueError(f"_dpt_head_overrides = {shown(overrides)} must be an object with {', '.join(own)}")
    return {own[name]: _tuples(value) for name, value in overrides.items()}


def _pair(value: Any) -> tuple[int, int]:
    pair = (value, value) if type(value) is int else value
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)):
        raise ValueError(f"img_size = {shown(value)} is not a pair of positive integers")
    return pair


def _tuples(value: Any) -> Any:
    """Convert lists (JSON has no tuples) and tuples written as text to tuples, infinities written as text to floats."""
    if isinstance(value, str) and value.startswith("("):
        return _literal(ast.parse(value, mode="eval").body)
    if isinstance(value, str) and value in (
        "inf",
        "-inf",
        "Infinity",
        "-Infinity",
    ):  # strict JSON cannot express them as numbers
        return float(value)
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def parse_constructor(text: str, origin: str) -> dict[str, Any]:
    """Keyword arguments of the text ``AsymmetricCroCo3DStereo(name=literal, ...)``, which is parsed, never evaluated.

    Raises:
        CheckpointError: the text is not one call of that class with literal keyword arguments.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args):
            raise ValueError("it is not a call with keyword arguments only")
        if call.func.id != "AsymmetricCroCo3DStereo":
            raise ValueError(f"the network is a {call.func.id}, not an AsymmetricCroCo3DStereo")
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("** is not a literal argument")
        return {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except _NOT_LITERAL as error:
        raise CheckpointError(
            f"{origin}: cannot read the network's arguments {text[:200]!r}: {error}; put the checkpoint's config.json "
            "beside the file"
        ) from error


def _literal(node: ast.expr) -> Any:
    """Value of an expression of numbers, text, True, False, None, inf, and tuples or lists of them (both as tuples)."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, (int, float)):
            return -value
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_literal(item) for item in node.elts)
    raise ValueError(f"{ast.unparse(node)[:80]!r} is not a literal")


class TensorFile(Protocol):
    """Names, shapes and tensors of an open file; a tensor is read when it is requested."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def tensor(self, name: str) -> Tensor: ...


class _Safetensors:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def names(self) -> list[str]:
        return list(self._handle.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        return self._handle.get_tensor(name)


class _StateDict:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a ``.safetensors`` or ``.pth`` file, memory-mapped: only tensors that are read take memory.

    Raises:
        CheckpointError: the file is damaged, or holds something other than tensors.
    """
    if path.suffix in PICKLE_SUFFIXES:
        tensors = _load_pickle(path).get("model")
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
            raise CheckpointError(
                f"{path}: it holds no state dict of tensors under 'model'; give a checkpoint as DUSt3R publishes them"
            )
        if wrong := [name for name, value in tensors.items() if not _holds_values(value)]:
            raise CheckpointError(
                f"{path}: {_listed(wrong)} are no tensors with values of their own in plain layout; give a checkpoint "
                "as DUSt3R publishes them"
            )
        yield _StateDict(tensors)
        return
    from safetensors import SafetensorError, safe_open

    try:
        foreign.require_regular(path)
        handle = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); fetch it again") from error
    with handle as opened:
        yield _Safetensors(opened)


def _holds_values(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta and value.layout == torch.strided


def _load_pickle(path: Path) -> dict[str, Any]:
    """Content of a ``.pth`` file, by torch's restricted unpickler: tensors, plain values and ``argparse.Namespace``."""
    if not hasattr(torch.serialization, "safe_globals"):
        raise CheckpointError(
            f"{path}: reading a .pth file safely needs torch 2.5 or newer; use the .safetensors file instead"
        )
    try:
        foreign.require_regular(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files of torch before 1.6 are not archives and cannot be memory-mapped
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise any exception on a damaged or hostile file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: refused; it is damaged, or holds more than tensors and plain values (nothing in it was "
            f"executed): {reason}. Fetch it again, or use the .safetensors file of the checkpoint"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: it holds a {type(content).__name__} instead of a dict; give a checkpoint as DUSt3R publishes them"
        )
    return content


def normalise_names(names: Collection[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Match the names in a file with those of the network.

    Tensors that inference does not use are dropped. ``layer_rn.{0..3}`` and ``layer{1..4}_rn`` name the same weights.
    Where a file has no weights for decoder 2, those of decoder 1 are used for it.

    Returns:
        {name in the network: name in the file}, and pairs of file names whose tensors must be equal.
    """
    table: dict[str, str] = {}
    tied: list[tuple[str, str]] = []
    for name in names:
        if _UNUSED.match(name):
            continue
        alias = _TIED.fullmatch(name)
        own = f"{alias[1]}layer{int(alias[2]) + 1}_rn.{alias[3]}" if alias else name
        if own in table:
            tied.append((table[own], name))
        else:
            table[own] = name
    if not any(name.startswith("dec_blocks2.") for name in table):
        copies = {
            n.replace("dec_blocks.", "dec_blocks2.", 1): f for n, f in table.items() if n.startswith("dec_blocks.")
        }
        table |= copies
    return table, tied


def check_names(file: TensorFile, table: Mapping[str, str], wanted: Mapping[str, tuple[int, ...]], origin: str) -> None:
    """Compare names and shapes of a file with those of the network.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape; the message lists them.
    """
    problems = []
    if missing := sorted(set(wanted) - set(table)):
        problems.append(f"missing {_listed(missing)}")
    if extra := sorted(set(table) - set(wanted)):
        problems.append(f"unknown {_listed(extra)}")
    shapes = [
        f"{name} {file.shape(table[name])} instead of {wanted[name]}"
        for name in sorted(set(wanted) & set(table))
        if file.shape(table[name]) != wanted[name]
    ]
    if shapes:
        problems.append(f"of another shape: {_listed(shapes)}")
    if problems:
        raise CheckpointError(
            f"{origin}: the weights do not fit the network that its config describes: {'; '.join(problems)}. Fetch the "
            "weights and config.json of the same checkpoint"
        )


def _listed(items: list[str], most: int = 8) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{len(items)} keys ({', '.join(items[:most])}{rest})"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; ``Infinity`` is accepted, because huggingface_hub's model mixin writes it.

    Raises:
        CheckpointError: the file is unreadable, or holds something other than an object.
    """
    try:
        content = foreign.read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it holds a {type(content).__name__}, not a JSON object; fetch it again")
    return content
