"""Names and licences of the known weights, and the search for the files of a checkpoint. Imports no torch."""

from __future__ import annotations

import difflib
import os
import re
import socket
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..core.errors import CheckpointError
from ..core.runlog import RunLog
from ..core.unicode import NOT_UNICODE, is_unicode
from .config import DUSt3RConfig

AUTO = "auto"
"""The default of ``--weights``. As the name of a network it means :data:`BEST`; whether a run takes one at all is
decided in :mod:`easi3r_ns.pipelines.choice`."""
BEST = "dust3r"
"""Name of the weights with the best results."""
NON_COMMERCIAL = "CC BY-NC-SA 4.0"
UNKNOWN_LICENCE = "unknown"
BUNDLED = Path(__file__).parent.parent / "pretrained"
HUB_FILES = ("config.json", "model.safetensors")
HUB_SECONDS = 10.0
"""How long an answer of the hub is waited for before a run goes on without a download."""
PICKLE_SUFFIXES = (".pth", ".pt")
_FOLDER_VARIABLE = "EASI3R_NS_WEIGHTS"
_HUB_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class KnownWeights:
    """One name that ``--weights`` understands."""

    name: str
    description: str
    licence: str
    hub_repo: str | None = None
    """Hugging Face repository; None: ships with the package."""
    network: DUSt3RConfig | None = None
    """Architecture of weights that are downloaded, so that a run can be planned before the download."""


KNOWN: dict[str, KnownWeights] = {
    known.name: known
    for known in (
        KnownWeights("tiny", "ships with the package; preview quality", "Apache-2.0"),
        KnownWeights(
            "dust3r",
            "DUSt3R ViT-L, 512 px, DPT heads, 571 M parameters (2.3 GB)",
            NON_COMMERCIAL,
            "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt",
            DUSt3RConfig(),
        ),
        KnownWeights(
            "dust3r-512-linear",
            "DUSt3R ViT-L, 512 px, linear heads, 532 M parameters (2.1 GB)",
            NON_COMMERCIAL,
            "naver/DUSt3R_ViTLarge_BaseDecoder_512_linear",
            DUSt3RConfig(head_type="linear"),
        ),
        KnownWeights(
            "dust3r-224",
            "DUSt3R ViT-L, 224 px squares, linear heads, 532 M parameters (2.1 GB)",
            NON_COMMERCIAL,
            "naver/DUSt3R_ViTLarge_BaseDecoder_224_linear",
            DUSt3RConfig(head_type="linear", image_size=224, square=True),
        ),
        KnownWeights(
            "monst3r",
            "MonST3R (DUSt3R fine-tuned on moving scenes), 512 px, DPT heads, 571 M parameters (2.3 GB)",
            NON_COMMERCIAL,
            "Junyi42/MonST3R_PO-TA-S-W_ViTLarge_BaseDecoder_512_dpt",
            DUSt3RConfig(),
        ),
    )
}


@dataclass(frozen=True)
class WeightsSource:
    """The files of one checkpoint."""

    name: str
    """The value of ``--weights``."""
    path: Path
    """The weight file: ``.safetensors``, or the original ``.pth``."""
    config_path: Path | None
    """The file ``config.json``; None only for a ``.pth`` file, which holds the network's arguments itself."""
    licence: str = UNKNOWN_LICENCE
    hub_repo: str | None = None

    @property
    def card_path(self) -> Path:
        """The file ``card.json`` beside the weights, with licence, hash and recommended options; it may be missing."""
        return self.path.with_name("card.json")


def is_non_commercial(licence: str) -> bool:
    """Whether a Creative Commons licence forbids commercial use."""
    return "NC" in re.split(r"[^A-Z]", licence.upper())


def local_folder() -> Path:
    """Folder for weights that the user downloaded by hand, with one subfolder per name."""
    return Path(os.environ.get(_FOLDER_VARIABLE) or Path.home() / ".cache" / "easi3r-ns" / "weights")


def resolve(spec: str, *, download: bool = True, log: RunLog | None = None) -> WeightsSource:
    """Find the files behind ``--weights NAME|PATH|HUB_REPO``, downloading them when they are not on this machine.

    Raises:
        CheckpointError: the name is unknown, a file is missing, or the download failed; the message says what to fetch
            and where to put it.
    """
    if spec == AUTO:
        return _resolve_best(download=download, log=log)
    if spec in KNOWN:
        known = KNOWN[spec]
        if known.hub_repo is None:
            return _from_folder(BUNDLED / known.name, spec, known.licence, None)
        folder = local_folder() / known.name
        if folder.is_dir():
            return _from_folder(folder, spec, known.licence, known.hub_repo)
        return _from_hub(known.hub_repo, spec, known.licence, download=download, log=log)
    path = Path(spec).expanduser()
    if path.exists() and not is_unicode(path):
        raise CheckpointError(f"--weights {spec}: {NOT_UNICODE}")
    if path.is_dir():
        return _from_folder(path, spec, _licence_of(path.name), None)
    if path.is_file():
        return _from_file(path, spec, _licence_of(path.stem), None)
    if not _looks_like_path(spec) and _HUB_REPO.fullmatch(spec):
        return _from_hub(spec, spec, _licence_of(spec.split("/")[1]), download=download, log=log)
    if _looks_like_path(spec):
        raise CheckpointError(
            f"--weights {spec}: no such file or folder; check the path, or give one of {', '.join(KNOWN)}"
        )
    near = difflib.get_close_matches(spec, KNOWN, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise CheckpointError(
        f"--weights {spec}: not a known name{hint}; give one of {', '.join(KNOWN)}, a .pth or .safetensors file, "
        "a folder, or a Hugging Face repository OWNER/NAME"
    )


def _resolve_best(*, download: bool, log: RunLog | None) -> WeightsSource:
    """Files of :data:`BEST`, for a caller that needs a network and is given ``auto``.

    Raises:
        CheckpointError: they cannot be had; the message names the three alternatives.
    """
    try:
        return resolve(BEST, download=download, log=log)
    except NotAvailableError as error:
        known = KNOWN[BEST]
        raise CheckpointError(
            f"--weights {AUTO} means {BEST} ({known.description}, licence {known.licence}); {error.reason}. There are "
            f"three ways to continue:\n  --weights {BEST}: {error.by_hand}\n"
            "  --weights tiny: ships with the package; all commands work, at preview quality\n"
            "  --weights none: no network; motion from optical flow, cameras from COLMAP, depth from stereo, of what "
            "stands still"
        ) from error


def _looks_like_path(spec: str) -> bool:
    path = Path(spec)
    return spec.startswith(("/", ".", "~")) or path.is_absolute() or path.suffix in (".safetensors", *PICKLE_SUFFIXES)


def _licence_of(stem: str) -> str:
    """Licence of the published checkpoint that has this file name, or of an unknown one."""
    for known in KNOWN.values():
        if known.hub_repo is not None and known.hub_repo.split("/")[1] == stem:
            return known.licence
    return UNKNOWN_LICENCE


def _from_folder(folder: Path, spec: str, licence: str, hub_repo: str | None) -> WeightsSource:
    candidates = sorted(p for p in folder.glob("*") if p.suffix in (".safetensors", *PICKLE_SUFFIXES))
    preferred = [p for p in candidates if p.name == "model.safetensors"] or candidates
    if len(preferred) != 1:
        found = ", ".join(p.name for p in preferred) or "none"
        raise CheckpointError(
            f"--weights {spec}: {folder} should hold model.safetensors and config.json, or one .pth file; found {found}"
            ". Add the missing file, or give the path of the weight file itself"
        )
    return _from_file(preferred[0], spec, licence, hub_repo)


def _from_file(path: Path, spec: str, licence: str, hub_repo: str | None) -> WeightsSource:
    config_path = path.with_name("config.json")
    if path.suffix in PICKLE_SUFFIXES:
        return WeightsSource(spec, path, config_path if config_path.is_file() else None, licence, hub_repo)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"--weights {spec}: {path.name} is neither .safetensors nor .pth; give a weight file")
    if not config_path.is_file():
        raise CheckpointError(
            f"--weights {spec}: config.json is missing beside {path}; fetch the one that was published with {path.name}"
        )
    return WeightsSource(spec, path, config_path, licence, hub_repo)


def _from_hub(repo: str, spec: str, licence: str, *, download: bool, log: RunLog | None) -> WeightsSource:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # Try the local cache first: it needs no connection, and a missing one would cost minutes of retries.
        config, weights = (Path(hf_hub_download(repo, name, local_files_only=True)) for name in HUB_FILES)
        return WeightsSource(spec, weights, config, licence, repo)
    except (OSError, ValueError) as error:
        if not download:
            raise NotAvailableError(repo, spec, "it is not on this machine") from error
    if not _hub_can_be_reached():
        raise NotAvailableError(repo, spec, "there is no connection to the hub")
    if log is not None:
        size = f", {KNOWN[spec].description}" if spec in KNOWN else ""
        log.info(f"downloading {repo} (licence: {licence}{size}); it is kept for later runs")
    try:
        config, weights = (Path(hf_hub_download(repo, name)) for name in HUB_FILES)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise NotAvailableError(repo, spec, f"the download failed: {_first_line(error)}") from error
    return WeightsSource(spec, weights, config, licence, repo)


def _hub_can_be_reached() -> bool:
    """False when the name of the hub's host cannot be resolved; it saves minutes of silent retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def reason_against_download(name: str) -> str | None:
    """Why the hub cannot give known weights now; None: it answers. Takes :data:`HUB_SECONDS` at most.

    ``name`` is that of weights with a Hugging Face repository.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    repo = KNOWN[name].hub_repo
    assert repo is not None
    if constants.HF_HUB_OFFLINE:
        return "downloads are switched off (HF_HUB_OFFLINE)"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repo, HUB_FILES[-1]), timeout=HUB_SECONDS)
            answers.append(None)
        except Exception as error:  # which HTTP library raises what depends on the release of huggingface_hub
            answers.append(f"the hub does not deliver it ({_first_line(error)})")

    # In a thread, because the look-up of the host's name takes no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answers[0] if answers else f"the hub does not answer within {HUB_SECONDS:.0f} seconds"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class NotAvailableError(CheckpointError):
    """A published checkpoint is not on this machine and cannot be downloaded."""

    def __init__(self, repo: str, spec: str, reason: str) -> None:
        folder = local_folder() / spec if spec in KNOWN else Path("FOLDER")
        then = f"--weights {spec}" if spec in KNOWN else "--weights FOLDER"
        self.reason = reason
        self.by_hand = (
            f"fetch {' and '.join(HUB_FILES)} of the Hugging Face repository {repo} on a machine with network, put "
            f"both into {folder} and use {then} again"
        )
        by_hand = self.by_hand[0].upper() + self.by_hand[1:]
        super().__init__(
            f"--weights {spec}: {reason}. {by_hand}; or use --weights tiny, which ships with the package (preview "
            "quality)"
        )
