"""A pretend CUDA device, at the level of torch functions: it computes on the CPU, keeps apart and counts.

Within :func:`pretend_cuda` a tensor that was put on "cuda" is a :class:`CudaTensor`: an ordinary tensor of the CPU that
says that it lies on cuda:0. As on a GPU it refuses to be mixed with tensors of the CPU (single numbers excepted) and to
become a NumPy array. Counted are what a GPU would be asked to do and the points at which the host would wait for it.

What is not pretended: precision (float32 products of a GPU round otherwise), streams, memory. A kernel counts as one
launch where a GPU's library would launch several (a factorisation, a sort).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.support.pretend_gpu import install_gpu

DEVICE = torch.device("cuda", 0)
T = torch.Tensor

_TO_NUMPY = {T.numpy, T.__array__}
_INDEXED = {T.__getitem__, T.__setitem__, T.index_put_, T.index_put}
_ANYWHERE = {torch._has_compatible_shallow_copy_type}
"""Functions that compare properties of tensors only."""
_ACROSS = {T.to, T.type_as, T.copy_, T.cpu, T.cuda, torch.tensor, torch.as_tensor, torch.asarray}
"""Functions that may see tensors of both devices."""
_LIKE_FIRST = {T.copy_}
_NO_SCALARS = {torch.cat, torch.stack, torch.matmul, torch.bmm, torch.baddbmm, torch.addmm, torch.einsum, T.index_add_}
"""Functions that refuse a single number on the CPU too."""
_NO_KERNEL = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "set_",
    "scalar_tensor",
}
"""Functions of ATen beside views that start nothing on the device."""
_WAITS = {
    *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim"),
    *("unique_consecutive", "_linalg_check_errors", "_linalg_svd", "_linalg_eigh", "linalg_eigvals", "linalg_lstsq"),
}
"""Functions of ATen after which the host needs a result of the device, or the count of results."""


class CudaTensor(torch.Tensor):
    """A tensor of the CPU that says that it lies on cuda:0. It behaves so within :func:`pretend_cuda` only."""

    __torch_function__ = torch._C._disabled_torch_function_impl


@dataclass
class Counts:
    """What the device was asked to do since the counts were made or cleared."""

    launches: int = 0
    """Kernels, without those of copies between host and device."""
    to_device: int = 0
    """Copies from the host's memory."""
    to_host: int = 0
    """Copies to the host's memory, single numbers included."""
    waits: int = 0
    """Points at which the host waits for the device: copies that are not asynchronous, values, counts of results."""
    kernels: Counter[str] = field(default_factory=Counter)
    """Launches by the name of the ATen function."""
    where: Counter[str] = field(default_factory=Counter)
    """Copies and waits by the torch function that caused them."""

    def copy(self) -> Counts:
        """As they are now."""
        return replace(self, kernels=self.kernels.copy(), where=self.where.copy())

    def since(self, before: Counts) -> Counts:
        """What came after ``before``."""
        changes = {f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        return Counts(**changes)

    def clear(self) -> None:
        """Begin again at 0."""
        self.launches = self.to_device = self.to_host = self.waits = 0
        self.kernels.clear()
        self.where.clear()


class _Kernels(TorchDispatchMode):
    """Counts the functions of ATen that compute something."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # under inference_mode composite functions come here whole
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(x, T) and x.dtype in (torch.bool, torch.uint8) for x in tree_leaves(args[1])
        )
        if name in _WAITS or masks:
            self._counts.waits += 1
            self._counts.where[f"wait: {name}"] += 1
            self._counts.to_host += name == "_local_scalar_dense"
        if not func.is_view and name not in _NO_KERNEL and name != "_local_scalar_dense":
            self._counts.launches += 1
            self._counts.kernels[name] += 1
        return func(*args, **kwargs)


class _Device(TorchFunctionMode):
    """Decides for every call of a torch function on which device it runs."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        owner = getattr(func, "__self__", None)  # of a property
        ours = bool(args) and isinstance(args[0], CudaTensor)
        if owner in (T.device, T.is_cuda, T.is_cpu):
            return {T.device: DEVICE, T.is_cuda: True, T.is_cpu: False}[owner] if ours else func(*args, **kwargs)
        if owner is T.data and len(args) == 2:  # Module.to sets the data of its parameters
            return _set_data(func, *args)
        if func in _TO_NUMPY and ours:
            raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, T)]
        on_device = [x for x in tensors if isinstance(x, CudaTensor)]
        wanted = _wanted_device(func, args, kwargs)
        kwargs.pop("pin_memory", None)
        if (not on_device and wanted != "cuda") or func in _ANYWHERE:
            return func(*args, **kwargs)
        self._refuse_mixtures(func, args, tensors)
        args, kwargs = tree_map(_on_cpu, (args, kwargs))
        target = wanted or ("cpu" if func in _LIKE_FIRST and not ours else "cuda")
        if func in _ACROSS:
            return self._across(func, args, kwargs, target)
        if func in _INDEXED:
            self._count_indices(func, args)
        with _Kernels(self._counts):
            out = func(*args, **kwargs)
        if func is T.tolist:
            self._copied("to_host", "tolist", waits=True)
        return tree_map(_on_device, out) if target == "cuda" else out

    def _across(self, func: Any, args: Any, kwargs: Any, target: str) -> Any:
        """A function that may copy between the devices."""
        if func is T.copy_:
            source, target = args[1], "cuda" if isinstance(args[0], CudaTensor) else "cpu"
        else:
            source = args[0]
        start = "cuda" if isinstance(source, CudaTensor) else "cpu"
        if start == target:
            with _Kernels(self._counts):
                out = func(*args, **kwargs)
            return tree_map(_on_device, out) if target == "cuda" else out
        blocking = not kwargs.get("non_blocking", False)
        if target in ("cuda", "cpu"):
            self._copied("to_device" if target == "cuda" else "to_host", func.__name__, waits=blocking)
        if func is T.copy_:
            return func(*args, **kwargs)
        if func is T.cuda:
            return _on_device(source.clone())
        out = func(*args, **kwargs)
        out = out.clone() if out is source else out
        return _on_device(out) if target == "cuda" else out.as_subclass(T)

    def _count_indices(self, func: Any, args: Any) -> None:
        """Indices and values on the host are copied to the device."""
        if not isinstance(args[0], CudaTensor):
            return
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        values = args[2:3] if func is not T.__getitem__ else ()
        for part in (*index, *values):
            host = isinstance(part, (list, np.ndarray)) or (isinstance(part, T) and not isinstance(part, CudaTensor))
            if host and not (isinstance(part, T) and part.ndim == 0):
                self._copied("to_device", func.__name__, waits=True)

    def _copied(self, direction: str, name: str, *, waits: bool) -> None:
        setattr(self._counts, direction, getattr(self._counts, direction) + 1)
        self._counts.waits += waits
        self._counts.where[f"{direction}: {name}"] += 1

    @staticmethod
    def _refuse_mixtures(func: Any, args: Any, tensors: list[T]) -> None:
        """Raise what a GPU raises when its tensors meet those of the host."""
        ours = [x for x in tensors if isinstance(x, CudaTensor)]
        others = [x for x in tensors if not isinstance(x, CudaTensor) and (x.ndim > 0 or func in _NO_SCALARS)]
        name = getattr(func, "__name__", str(func))
        in_place = name.endswith("_") and not name.endswith("__") or name.startswith("__i") and name != "__iter__"
        first = args[0] if args else None
        wrong = bool(ours and others and func not in _ACROSS)
        if ours and func not in _ACROSS and in_place and isinstance(first, T) and not isinstance(first, CudaTensor):
            wrong = True
        if wrong and func in _INDEXED and isinstance(first, CudaTensor):
            # Indices may lie on the host; values only where the whole of a slice is copied.
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            value = args[2] if func is not T.__getitem__ else None
            foreign = isinstance(value, T) and not isinstance(value, CudaTensor) and value.ndim > 0
            wrong = foreign and (func is not T.__setitem__ or any(isinstance(i, (T, list)) for i in index))
        if wrong:
            shown = ", ".join(f"{'cuda' if isinstance(x, CudaTensor) else 'cpu'} {tuple(x.shape)}" for x in tensors)
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {shown}")


def _wanted_device(func: Any, args: Any, kwargs: Any) -> str | None:
    """'cuda', 'cpu' or another type where the call names a device, else None."""
    if func is T.cpu:
        return "cpu"
    if func is T.cuda:
        return "cuda"
    named = [kwargs["device"]] if kwargs.get("device") is not None else []
    if func in (T.to, T.type_as):
        named += args[1:]
        named += [kwargs["other"]] if "other" in kwargs else []
    if func in (torch.tensor, torch.as_tensor, torch.asarray) and not named:
        return "cuda" if isinstance(args[0], CudaTensor) else None
    for value in named:
        if isinstance(value, T):
            return "cuda" if isinstance(value, CudaTensor) else "cpu"
        if isinstance(value, (str, torch.device)):
            return torch.device(value).type
    return None


def _on_cpu(value: Any) -> Any:
    """What names the device, for the CPU that computes."""
    named = isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] == "cuda")
    return torch.device("cpu") if named and torch.device(value).type == "cuda" else value


def _on_device(value: Any) -> Any:
    # The class of the object is changed, not a view of it taken: leaves stay leaves, and in-place results themselves.
    if isinstance(value, T) and not isinstance(value, CudaTensor):
        value.__class__ = CudaTensor
    return value


def _set_data(func: Any, tensor: T, value: T) -> None:
    func(tensor, value)
    parameter = isinstance(tensor, torch.nn.Parameter)
    if isinstance(value, CudaTensor):
        tensor.__class__ = CudaTensor
        tensor._is_param = parameter
    elif isinstance(tensor, CudaTensor):
        tensor.__class__ = torch.nn.Parameter if parameter else T


class _Event:
    """A mark in the one stream: waiting for it is waiting for the device."""

    counts: Counts

    def __init__(self, **_: object) -> None: ...

    def record(self, *_: object) -> None: ...

    def synchronize(self) -> None:
        self.counts.waits += 1
        self.counts.where["wait: event"] += 1


@contextmanager
def pretend_cuda(free: int = 2**33) -> Iterator[Counts]:
    """Torch has one GPU, with ``free`` bytes of memory that are never used up; yields what it is asked to do."""
    counts = Counts()

    def synchronise(*_: object) -> None:
        counts.waits += 1
        counts.where["wait: synchronize"] += 1

    with pytest.MonkeyPatch.context() as patch:
        install_gpu(patch, free=free)
        patch.setattr(torch.cuda, "Event", type("Event", (_Event,), {"counts": counts}))
        patch.setattr(torch.cuda, "synchronize", synchronise)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            patch.setattr(torch.optim.Optimizer, name, lambda _: None, raising=False)
        with _Device(counts):
            yield counts
