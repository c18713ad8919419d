"""Files of Hugging Face repositories: from the cache or downloaded, checked, and what to do when that fails.

Caching, tokens, mirrors (``HF_ENDPOINT``), offline use (``HF_HUB_OFFLINE``), proxies and the resumption of a dropped
connection are those of huggingface_hub. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import Easi3RError
from ..core.runlog import RunLog
from .hub_errors import endpoint, told

HUB_FILES = ("config.json", "model.safetensors")
HUB_SECONDS = 10.0
"""How long the first answer of the hub is waited for. Without a limit, an unreachable one costs minutes of retries."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""


class HubError(Easi3RError):
    """A file cannot be had from the hub; the message is one line with the remedy."""


@dataclass(frozen=True)
class Repository:
    """The files of one checkpoint on the hub."""

    name: str
    """OWNER/NAME."""
    revision: str | None = None
    """Commit, tag or branch; None: what the hub calls main."""
    sha256: str | None = None
    """Of model.safetensors, where it is known beforehand; None: what the hub states is taken."""
    files: tuple[str, ...] = HUB_FILES
    """The weights are the last one."""

    def in_cache(self) -> tuple[Path, ...] | None:
        """The files in the order of ``files``, from the cache alone; None: at least one is not there."""
        from huggingface_hub import hf_hub_download

        try:
            return tuple(
                Path(hf_hub_download(self.name, file, revision=self.revision, local_files_only=True))
                for file in self.files
            )
        except (OSError, ValueError):
            return None

    def damage(self, paths: tuple[Path, ...], *, thorough: bool) -> str | None:
        """What is wrong with files of the cache; None: nothing.

        The layout is always checked, which shows a file that was cut off. ``thorough`` also reads all bytes and
        compares their hash with the one that the hub stated at the download, after which the cache names its files.
        """
        for name, path in zip(self.files, paths, strict=True):
            if (problem := _wrong_layout(path)) is not None:
                return f"{path} is damaged ({problem})"
            if thorough:
                try:
                    self._require_hash(name, path, path.resolve().name)
                except HubError as error:
                    return f"{path} is damaged ({error})"
        return None

    def look_up(self, file: str) -> Any:
        """What the hub states of a file: its commit, hash and size; takes :data:`HUB_SECONDS` at most.

        Raises:
            HubError: the hub cannot be reached, or refuses.
        """
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            raise HubError("downloads are switched off (HF_HUB_OFFLINE); unset it")
        url = hf_hub_url(self.name, file, revision=self.revision)
        # In a thread, because the look-up of the host's name takes no time limit.
        return _within(lambda: get_hf_file_metadata(url, timeout=HUB_SECONDS), f"{self.name}/{file}")

    def look_up_all(self) -> list[Any]:
        """:meth:`look_up` of all files; HubError also where the hub has other weights than the pinned ones."""
        stated = [self.look_up(file) for file in self.files]
        if self.sha256 is not None and stated[-1].etag != self.sha256:
            raise HubError(
                f"{endpoint()} states the SHA-256 {stated[-1].etag} of {self.name}/{self.files[-1]}, but the known one "
                f"is {self.sha256}: the file was replaced there; use another mirror, or give its folder to --weights"
            )
        return stated

    def download(self, stated: list[Any], log: RunLog, *, anew: bool = False) -> tuple[Path, ...]:
        """The files, of which those that the cache lacks are downloaded and compared with the hash that the hub states.

        Args:
            stated: result of :meth:`look_up_all`.
            anew: replace what the cache has.

        Raises:
            HubError: the download failed, or what arrives is not what the hub states.
        """
        return tuple(self._fetched(file, facts.etag, anew, log) for file, facts in zip(self.files, stated, strict=True))

    def _fetched(self, file: str, etag: str | None, anew: bool, log: RunLog) -> Path:
        from huggingface_hub import hf_hub_download

        for again in (anew, True):
            try:
                path = Path(hf_hub_download(self.name, file, revision=self.revision, force_download=again))
            except Exception as error:  # which HTTP library raises what depends on the release of huggingface_hub
                raise HubError(told(error, f"{self.name}/{file}")) from error
            try:
                self._require_hash(file, path, etag or "")
                return path
            except HubError as error:
                reason = str(error)
            log.detail(f"{reason}; it is fetched once more")
        raise HubError(
            f"{reason}, twice in a row; a proxy or the disk of {path.parent} may be at fault, try again later"
        )

    def _require_hash(self, name: str, path: Path, stated: str) -> None:
        """Compare a file with the hash that the hub stated: SHA-256 of a large file, git's SHA-1 of a small one."""
        wanted = self.sha256 if name == self.files[-1] and self.sha256 else stated
        if _SHA256.fullmatch(wanted):
            found = _hash(path, hashlib.sha256())
        elif _GIT_SHA1.fullmatch(wanted):
            found = _hash(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))
        else:
            return  # a mirror, or a cache without links, that states no hash
        if found != wanted:
            raise HubError(f"{name} has the hash {found[:12]}..., the hub states {wanted[:12]}...")


def commit_of(path: Path) -> str | None:
    """The commit that a file of the hub's cache belongs to; None: it lies elsewhere."""
    parent = path.parent
    return parent.name if parent.parent.name == "snapshots" and _GIT_SHA1.fullmatch(parent.name) else None


def _within(ask: Callable[[], Any], what: str) -> Any:
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # as in Repository._fetched
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if not answers:
        raise HubError(f"{endpoint()} does not answer within {HUB_SECONDS:g} seconds; try again later")
    if isinstance(answers[0], Exception):
        raise HubError(told(answers[0], what)) from answers[0]
    return answers[0]


def _hash(path: Path, state: Any) -> str:
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            state.update(chunk)
    return str(state.hexdigest())


def _wrong_layout(path: Path) -> str | None:
    """What shows, without reading the weights, that a file is no whole JSON or safetensors file; None: nothing."""
    try:
        if path.suffix == ".json":
            return None if isinstance(json.loads(path.read_bytes()), dict) else "not a JSON object"
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= min(size, _LONGEST_HEADER):
                return f"{size} bytes, not a safetensors file"
            header = json.loads(stream.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        return None if size == 8 + length + end else f"{size} bytes instead of {8 + length + end}"
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
