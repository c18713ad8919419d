"""What measures depth: OpenCV or torch on planes, or COLMAP's PatchMatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..core.errors import InputError, MissingExtraError
from .arrays import OpenCVOperations, Operations, TorchOperations
from .patchmatch import PatchMatch

Name = Literal["opencv", "torch", "patchmatch"]


@dataclass(frozen=True)
class Stereo:
    """What measures depth, and where."""

    name: Name
    device: torch.device
    patch_match: PatchMatch | None = None
    """Only for 'patchmatch'."""
    threads: int | None = None
    """Frames that a CPU measures at once; None: one for each core. They measure the same whatever their number."""

    @classmethod
    def on(cls, device: torch.device) -> Stereo:
        """OpenCV on a CPU, where torch's look-ups are many times slower; torch elsewhere."""
        return cls("opencv" if device.type == "cpu" else "torch", device)

    @property
    def operations(self) -> Operations:
        """Those of the sweep; what agrees is found with them after PatchMatch too."""
        return TorchOperations(self.device) if self.name == "torch" else OpenCVOperations()

    def __str__(self) -> str:
        where = "" if self.name == "opencv" else f" on {self.device.type}"
        return f"{self.name}{where}"


def choose_stereo(asked: str, device: torch.device, patch_match: PatchMatch | None, refusal: str | None) -> Stereo:
    """What ``--stereo`` asks for; 'auto' is PatchMatch where it is usable, else :meth:`Stereo.on`.

    Args:
        device: what ``--device`` means here.
        patch_match, refusal: PatchMatch, or why this installation has none.

    Raises:
        MissingExtraError: 'patchmatch' is asked for, and ``refusal`` says why it is not there.
        InputError: it is asked for on another device than CUDA.
    """
    usable = patch_match is not None and device.type == "cuda"
    if asked == "patchmatch" and not usable:
        if patch_match is None:
            raise MissingExtraError(f"--stereo patchmatch: {refusal}; --stereo auto measures without it")
        raise InputError(f"--stereo patchmatch computes on CUDA, not on {device.type}: use --device cuda")
    if asked == "patchmatch" or (asked == "auto" and usable):
        return Stereo("patchmatch", device, patch_match)
    if asked == "opencv":
        return Stereo("opencv", torch.device("cpu"))
    return Stereo("torch", device) if asked == "torch" else Stereo.on(device)
