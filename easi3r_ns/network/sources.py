"""Names and licences of the known weights, and the search for the files of a checkpoint. Imports no torch.

:mod:`.hub` downloads them.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import CheckpointError
from ..core.runlog import RunLog
from ..core.unicode import NOT_UNICODE, is_unicode
from .config import DUSt3RConfig
from .hub import HUB_FILES, HubError, Repository, commit_of

AUTO = "auto"
"""The default of ``--weights``. As the name of a network it means :data:`BEST`; whether a run takes one at all is
decided in :mod:`easi3r_ns.pipelines.choice`."""
BEST = "dust3r"
"""Name of the weights with the best results."""
NON_COMMERCIAL = "CC BY-NC-SA 4.0"
UNKNOWN_LICENCE = "unknown"
BUNDLED = Path(__file__).parent.parent / "pretrained"
PICKLE_SUFFIXES = (".pth", ".pt")
_FOLDER_VARIABLE = "EASI3R_NS_WEIGHTS"
_HUB_REPO = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
"""OWNER/NAME, and @ and a commit, tag or branch where one is asked for."""


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
    revision: str | None = None
    """Commit of the repository; None: not known to us, the newest is taken."""
    sha256: str | None = None
    """Of model.safetensors; None: not known to us, the hash that the hub states is compared."""

    @property
    def repository(self) -> Repository:
        """Where the weights are downloaded from; only for those that do not ship with the package."""
        assert self.hub_repo is not None
        return Repository(self.hub_repo, self.revision, self.sha256)


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

    @property
    def hub_revision(self) -> str | None:
        """The commit of the repository that the file belongs to; None: it is not from the hub's cache."""
        return commit_of(self.path)


def is_non_commercial(licence: str) -> bool:
    """Whether a Creative Commons licence forbids commercial use."""
    return "NC" in re.split(r"[^A-Z]", licence.upper())


def local_folder() -> Path:
    """Folder for weights that the user downloaded by hand, with one subfolder per name."""
    return Path(os.environ.get(_FOLDER_VARIABLE) or Path.home() / ".cache" / "easi3r-ns" / "weights")


def resolve(spec: str, *, download: bool = True, thorough: bool = False, log: RunLog | None = None) -> WeightsSource:
    """Find the files behind ``--weights NAME|PATH|HUB_REPO``, downloading them when they are not on this machine or
    when those in the hub's cache are damaged.

    Args:
        thorough: read files of the hub's cache in full and compare their hashes; otherwise a file that was cut off is
            noticed, one with altered weights is not.

    Raises:
        CheckpointError: the name is unknown, a file is missing, or the download failed; the message says what to fetch
            and where to put it.
    """
    if spec == AUTO:
        return _resolve_best(download=download, thorough=thorough, log=log)
    if spec in KNOWN:
        known = KNOWN[spec]
        if known.hub_repo is None:
            return _from_folder(BUNDLED / known.name, spec, known.licence, None)
        folder = local_folder() / known.name
        if folder.is_dir():
            return _from_folder(folder, spec, known.licence, known.hub_repo)
        return _from_hub(known.repository, spec, known.licence, download=download, thorough=thorough, log=log)
    path = Path(spec).expanduser()
    if path.exists() and not is_unicode(path):
        raise CheckpointError(f"--weights {spec}: {NOT_UNICODE}")
    if path.is_dir():
        return _from_folder(path, spec, _licence_of(path.name), None)
    if path.is_file():
        return _from_file(path, spec, _licence_of(path.stem), None)
    if not _looks_like_path(spec) and (match := _HUB_REPO.fullmatch(spec)):
        repository = Repository(match[1], match[2])
        licence = _licence_of(match[1].split("/")[1])
        return _from_hub(repository, spec, licence, download=download, thorough=thorough, log=log)
    if _looks_like_path(spec):
        raise CheckpointError(
            f"--weights {spec}: no such file or folder; check the path, or give one of {', '.join(KNOWN)}"
        )
    near = difflib.get_close_matches(spec, KNOWN, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise CheckpointError(
        f"--weights {spec}: not a known name{hint}; give one of {', '.join(KNOWN)}, a .pth or .safetensors file, "
        "a folder, or a Hugging Face repository OWNER/NAME or OWNER/NAME@REVISION"
    )


def _resolve_best(*, download: bool, thorough: bool, log: RunLog | None) -> WeightsSource:
    """Files of :data:`BEST`, for a caller that needs a network and is given ``auto``.

    Raises:
        CheckpointError: they cannot be had; the message names the three alternatives.
    """
    try:
        return resolve(BEST, download=download, thorough=thorough, log=log)
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


def _from_hub(
    repository: Repository, spec: str, licence: str, *, download: bool, thorough: bool, log: RunLog | None
) -> WeightsSource:
    log = log or RunLog()
    here = repository.in_cache()
    damage = None if here is None else repository.damage(here, thorough=thorough)
    if here is None or damage is not None:
        if not download:
            raise NotAvailableError(repository, spec, damage or "it is not on this machine")
        if damage is not None:
            log.warn(f"{damage}; it is fetched anew")
        size = f", {KNOWN[spec].description}" if spec in KNOWN else ""
        try:
            stated = repository.look_up_all()
            log.info(f"downloading {repository.name} (licence: {licence}{size}); it is kept for later runs")
            here = repository.download(stated, log, anew=damage is not None)
        except HubError as error:
            reason = f"the download failed: {error}"
            raise NotAvailableError(repository, spec, f"{damage}, and {reason}" if damage else reason) from error
    config, weights = here
    return WeightsSource(spec, weights, config, licence, repository.name)


def reason_against_download(name: str) -> str | None:
    """Why the hub cannot give known weights now; None: it answers. Takes :data:`.hub.HUB_SECONDS` at most.

    ``name`` is that of weights with a Hugging Face repository.
    """
    try:
        KNOWN[name].repository.look_up(HUB_FILES[-1])
    except HubError as error:
        return str(error)
    return None


class NotAvailableError(CheckpointError):
    """A published checkpoint is not on this machine and cannot be downloaded."""

    def __init__(self, repository: Repository, spec: str, reason: str) -> None:
        folder = local_folder() / spec if spec in KNOWN else Path("FOLDER")
        then = f"--weights {spec}" if spec in KNOWN else "--weights FOLDER"
        self.reason = reason
        at = f" at {repository.revision}" if repository.revision else ""
        self.by_hand = (
            f"fetch {' and '.join(HUB_FILES)} of the Hugging Face repository {repository.name}{at} on a machine with "
            f"network, put both into {folder} and use {then} again"
        )
        by_hand = self.by_hand[0].upper() + self.by_hand[1:]
        super().__init__(
            f"--weights {spec}: {reason}. {by_hand}; or use --weights tiny, which ships with the package (preview "
            "quality)"
        )
