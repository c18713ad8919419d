"""Models of the library transformers: found by name, folder or hub repository, checked before long work, and loaded.

Each use of such a model has a :class:`Role`; the adapter that speaks to the model lies where its results are used.
Everything that goes wrong is one line with the remedy. Imports neither torch nor transformers before it has to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, MemoryLimitError, MissingExtraError, shortened
from ..core.install import install_extra
from ..core.memory import lack_of_memory
from ..core.runlog import RunLog
from .hub import HUB_FILES, HubError, Repository, commit_of
from .sources import UNKNOWN_LICENCE, local_folder

EXTRA = "models"
"""The optional dependency that brings transformers."""
_HUB_REPO = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class KnownModel:
    """A published model that has a name here."""

    name: str
    description: str
    licence: str
    hub_repo: str
    files: tuple[str, ...] = HUB_FILES
    """What is downloaded; the weights are the last one."""
    revision: str | None = None
    """Commit of the repository; None: not known to us, the newest is taken."""
    also: tuple[str, tuple[int, int]] | None = None
    """A further library that it needs, and its first release (major, minor) that fits."""


@dataclass(frozen=True)
class Role:
    """What an option uses a model for."""

    option: str
    """Such as ``--depth-prior``; begins every message."""
    classes: tuple[str, ...]
    """Classes of transformers that the adapter understands, as ``architectures`` of ``config.json`` names them."""
    names: tuple[str, ...]
    """Those of :data:`MODELS` that fit."""
    without: str
    """How to do without a model, such as ``leave out --depth-prior``."""
    files: tuple[str, ...] = HUB_FILES
    """What a folder, or a repository that is not known here, has to hold; the weights are the last one."""


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine, checked as far as is possible without loading it."""

    name: str
    """As it was asked for."""
    folder: Path
    architecture: str
    """Its class in transformers."""
    licence: str
    hub_repo: str | None = None

    @property
    def provenance(self) -> dict[str, str]:
        """What a dataset says of it."""
        commit = commit_of(self.folder / HUB_FILES[0])
        facts = {"model": self.name, "architecture": self.architecture, "licence": self.licence}
        return facts | ({"repository": self.hub_repo} if self.hub_repo else {}) | ({"commit": commit} if commit else {})

    @property
    def weights_bytes(self) -> int:
        """Size of the weights."""
        return (self.folder / HUB_FILES[-1]).stat().st_size


_DEPTH = "Depth Anything V2, depth of single pictures"

MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        *(
            KnownModel(
                f"depth-anything{suffix}",
                f"{_DEPTH}, {what}",
                "Apache-2.0" if apache else "CC BY-NC 4.0",
                f"depth-anything/Depth-Anything-V2-{repository}-hf",
            )
            for suffix, what, apache, repository in (
                ("", "relative, ViT-S, 25 M parameters (0.1 GB)", True, "Small"),
                ("-base", "relative, ViT-B, 98 M parameters (0.4 GB)", False, "Base"),
                ("-large", "relative, ViT-L, 335 M parameters (1.3 GB)", False, "Large"),
                ("-indoor", "metres indoors, ViT-S, 25 M parameters (0.1 GB)", True, "Metric-Indoor-Small"),
                ("-outdoor", "metres outdoors, ViT-S, 25 M parameters (0.1 GB)", True, "Metric-Outdoor-Small"),
            )
        ),
        KnownModel(
            "depth-pro",
            "Depth Pro, metres, 952 M parameters (1.9 GB)",
            "Apple's licence for research (apple-amlr), not for products",
            "apple/DepthPro-hf",
        ),
        *(
            KnownModel(
                f"sam2{suffix}",
                f"SAM 2.1, follows objects through video, {size}",
                "Apache-2.0",
                f"facebook/sam2.1-hiera-{repository}",
            )
            for suffix, size, repository in (
                ("", "46 M parameters (0.2 GB)", "small"),
                ("-tiny", "39 M parameters (0.2 GB)", "tiny"),
                ("-base", "81 M parameters (0.3 GB)", "base-plus"),
                ("-large", "224 M parameters (0.9 GB)", "large"),
            )
        ),
        KnownModel(
            "edgetam",
            "EdgeTAM, follows objects through video, 14 M parameters (0.1 GB)",
            "Apache-2.0",
            "yonigozlan/EdgeTAM-hf",
            also=("timm", (1, 0)),
        ),
        KnownModel(
            "sam3",
            "SAM 3, finds and segments things by their names, 840 M parameters (3.4 GB)",
            "SAM License (Meta's own; some uses are excluded, and the hub asks you to accept it first)",
            "facebook/sam3",
            ("config.json", "tokenizer.json", "model.safetensors"),
        ),
        *(
            KnownModel(
                f"grounding-dino{suffix}",
                f"Grounding DINO, finds things by their names, {size}",
                "Apache-2.0",
                f"IDEA-Research/grounding-dino-{repository}",
                ("config.json", "tokenizer.json", "model.safetensors"),
            )
            for suffix, size, repository in (
                ("", "172 M parameters (0.7 GB)", "tiny"),
                ("-base", "233 M parameters (0.9 GB)", "base"),
            )
        ),
    )
}
"""Name -> model. ``easi3r weights`` and ``easi3r doctor`` list them."""


def require_transformers(role: Role, spec: str) -> Any:
    """The library. Raises MissingExtraError where it is not there, does not load, or lacks the classes of the role."""
    try:
        import transformers

        missing = [name for name in role.classes if getattr(transformers, name, None) is None]
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"{role.option} {spec} needs the library transformers ({shortened(str(error), 100)}): "
            f"{install_extra(EXTRA)}; or {role.without}"
        ) from error
    if len(missing) == len(role.classes):
        raise MissingExtraError(
            f"{role.option} {spec}: transformers {transformers.__version__} has no {' and no '.join(missing)}: "
            f"pip install --upgrade transformers; or {role.without}"
        )
    return transformers


def lacks_library(also: tuple[str, tuple[int, int]]) -> str | None:
    """What to say where a library that a model needs is missing or too old, with the remedy; None: it is here.

    Args:
        also: see :attr:`KnownModel.also`.
    """
    name, least = also
    wanted = f"{name}>={least[0]}.{least[1]}"
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"{wanted}: pip install '{wanted}'"
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    return None if numbers >= least else f"{wanted} ({found} is here): pip install '{wanted}'"


def find_model(role: Role, spec: str, log: RunLog, *, download: bool = True) -> ModelFiles:
    """The model that an option names: one of the role's names, a folder, or OWNER/NAME[@REVISION] of the hub.

    A name is looked for in the folder of weights by hand and in the hub's cache before it is downloaded; its licence is
    said before.

    Raises:
        CheckpointError: it cannot be had, is incomplete or damaged, or is of another class.
    """
    path = Path(spec).expanduser()
    by_hand = local_folder() / spec if spec in role.names else path
    if by_hand.is_dir():
        known = MODELS.get(spec)
        licence, repository = (known.licence, known.hub_repo) if known else (_licence_of(path.name), None)
        _require_files(role, spec, by_hand)
        return ModelFiles(spec, by_hand, _architecture(role, spec, by_hand), licence, repository)
    if spec in role.names:
        model = MODELS[spec]
        return _from_hub(role, spec, Repository(model.hub_repo, model.revision, files=model.files), log, download)
    looks_like_path = spec.startswith(("/", ".", "~")) or path.is_absolute() or path.exists()
    if not looks_like_path and (match := _HUB_REPO.fullmatch(spec)):
        return _from_hub(role, spec, Repository(match[1], match[2], files=role.files), log, download)
    what = "a file, not a folder" if path.is_file() else "no such folder"
    raise CheckpointError(
        f"{role.option} {spec}: {what}; give one of {', '.join(role.names)}, a folder with {' and '.join(role.files)}, "
        f"or a Hugging Face repository OWNER/NAME; or {role.without}"
    )


def load_model(role: Role, files: ModelFiles, device: Any, dtype: Any = None) -> Any:
    """The model on ``device``, for inference; nothing is fetched and no code of the folder is executed.

    Args:
        device: torch.device or its name.
        dtype: of its weights; None: float32.

    Raises:
        MissingExtraError: see :func:`require_transformers`.
        CheckpointError: the weights do not fit the class, with the names of some that are missing.
        MemoryLimitError: it does not fit into memory.
    """
    import torch

    cls = getattr(require_transformers(role, files.name), files.architecture)
    with one_line_when_full(role, files.name, "choose a smaller model, --device cpu"):
        try:
            with _quiet():
                model, found = cls.from_pretrained(
                    files.folder,
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are named below, where the library would only raise
                    dtype=dtype or torch.float32,
                )
        except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            if lack_of_memory(error):
                raise
            raise CheckpointError(
                f"{role.option} {files.name}: {files.folder} does not load as {files.architecture} "
                f"({shortened(str(error), 150)}); fetch the model anew, or {role.without}"
            ) from error
        lacking = sorted([*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])])
        if lacking:
            raise CheckpointError(
                f"{role.option} {files.name}: {files.folder / HUB_FILES[-1]} lacks {len(lacking)} weights of "
                f"{files.architecture}, or has them in another shape ({', '.join(lacking[:3])}): it does not belong to "
                f"the config.json beside it; fetch both from one place, or {role.without}"
            )
        return model.eval().requires_grad_(False).to(device)


@contextmanager
def one_line_when_full(role: Role, spec: str, remedy: str) -> Iterator[None]:
    """Turn a lack of memory, of the GPU or of the machine, into a MemoryLimitError that names ``remedy``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if lack_of_memory(error) is None:
            raise
        raise MemoryLimitError(f"{role.option} {spec}: out of memory: {remedy}, or {role.without}") from error


def is_here(name: str) -> bool:
    """Whether a known model is on this machine, complete and with a sound layout."""
    model, folder = MODELS[name], local_folder() / name
    if folder.is_dir():
        return all((folder / file).is_file() for file in model.files)
    repository = Repository(model.hub_repo, model.revision, files=model.files)
    here = repository.in_cache()
    return here is not None and repository.damage(here, thorough=False) is None


def fetch_known(name: str, log: RunLog) -> Path:
    """Folder of a known model, downloaded where it is missing or damaged; for `easi3r weights fetch`.

    Raises:
        CheckpointError: the download failed.
    """
    model, folder = MODELS[name], local_folder() / name
    role = Role("weights fetch", (), (name,), "leave it out", model.files)
    if folder.is_dir():
        _require_files(role, name, folder)
        return folder
    repository = Repository(model.hub_repo, model.revision, files=model.files)
    return _fetched(role, name, repository, model.licence, log, download=True, thorough=True)[0].parent


def _from_hub(role: Role, spec: str, repository: Repository, log: RunLog, download: bool) -> ModelFiles:
    licence = MODELS[spec].licence if spec in MODELS else _licence_of(repository.name)
    folder = _fetched(role, spec, repository, licence, log, download=download)[0].parent
    return ModelFiles(spec, folder, _architecture(role, spec, folder), licence, repository.name)


def _fetched(
    role: Role,
    spec: str,
    repository: Repository,
    licence: str,
    log: RunLog,
    *,
    download: bool,
    thorough: bool = False,
) -> tuple[Path, ...]:
    here = repository.in_cache()
    damage = None if here is None else repository.damage(here, thorough=thorough)
    if here is not None and damage is None:
        return here
    reason = damage or "it is not on this machine"
    if download:
        try:
            stated = repository.look_up_all()
            size = sum(getattr(facts, "size", None) or 0 for facts in stated) / 1e6
            log.info(f"downloading {repository.name} (licence: {licence}, {size:.0f} MB); it is kept for later runs")
            return repository.download(stated, log, anew=damage is not None)
        except HubError as error:
            reason = f"the download failed: {error}"
    folder = str(local_folder() / spec) if spec in MODELS else "a folder"
    then = "give the same command again" if spec in MODELS else f"give {role.option} FOLDER"
    at = f" at {repository.revision}" if repository.revision else ""
    raise CheckpointError(
        f"{role.option} {spec}: {reason.rstrip('.')}. Fetch {' and '.join(repository.files)} of the Hugging Face "
        f"repository {repository.name}{at} on a machine with network, put them into {folder} and {then}; or "
        f"{role.without}"
    )


def _require_files(role: Role, spec: str, folder: Path) -> None:
    missing = [file for file in role.files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{role.option} {spec}: {' and '.join(missing)} missing in {folder}: a folder of a model holds "
            f"{' and '.join(role.files)}, as save_pretrained writes them; or {role.without}"
        )
    damage = Repository("", files=role.files).damage(tuple(folder / file for file in role.files), thorough=False)
    if damage is not None:
        raise CheckpointError(f"{role.option} {spec}: {damage}; fetch it anew, or {role.without}")


def _architecture(role: Role, spec: str, folder: Path) -> str:
    """The class that ``config.json`` names. Raises CheckpointError where it is none of the role's."""
    config = json.loads((folder / HUB_FILES[0]).read_text(encoding="utf-8"))
    stated = config.get("architectures")
    named = [str(name) for name in stated] if isinstance(stated, list) else []
    fitting = [name for name in named if name in role.classes]
    if fitting:
        return fitting[0]
    found = " and ".join(named) or f"no class (model_type {config.get('model_type')})"
    raise CheckpointError(
        f"{role.option} {spec}: config.json of {folder} names {found}, not {' or '.join(role.classes)}; give one of "
        f"{', '.join(role.names)} or another model of that kind, or {role.without}"
    )


def _licence_of(repository: str) -> str:
    """Licence of the published model in a repository, or in a folder with the name of one; else unknown."""
    for model in MODELS.values():
        if repository in (model.hub_repo, model.hub_repo.split("/")[1]):
            return model.licence
    return UNKNOWN_LICENCE


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and warnings of transformers: what they say is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
