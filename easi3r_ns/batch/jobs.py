"""The clips of a batch: their names, their files, and what a worker is told of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..storage.files import jsonable

if TYPE_CHECKING:
    from ..pipelines.pipeline import RunConfig

FOLDER = ".batch"
"""Name of the folder, in that of the batch, for logs, pictures and what workers report."""
RUNNER = "easi3r_ns.batch.runner"
_MOST_NAME = 100
"""Characters of the name of a clip; file systems allow 255 bytes."""


@dataclass(frozen=True)
class ClipJob:
    """One clip, as a worker is told of it; all values are those of JSON."""

    name: str
    """Unique in the batch, and the name of the folder of the dataset."""
    data: str
    """The clip, as an absolute path."""
    output_dir: str
    """Folder of the batch, as an absolute path that every machine of a cluster can reach."""
    options: Mapping[str, Any]
    """Those of a run; see :attr:`config`."""
    overwrite: bool = False
    """Replace a dataset that other options or another clip made."""
    runner: str = RUNNER
    """Module with ``examine(job)``; as a program, it makes the dataset of the job on its standard input."""
    shares_windows: bool = False
    """Whether free workers may align windows of the clip, where it is long."""

    @property
    def windows(self) -> Path:
        """Folder in which its windows are shared; see :mod:`~easi3r_ns.align.long.spread`."""
        return self.file(".windows")

    @property
    def config(self) -> RunConfig:
        """The options of the run. Loads PyTorch, which the process that watches a run does without."""
        from ..pipelines.kept import config_of

        return config_of(self.options)

    @property
    def dataset(self) -> Path:
        """Folder of the dataset."""
        return Path(self.output_dir) / self.name

    def file(self, suffix: str) -> Path:
        """A file of the batch about this clip, such as its ``.log``."""
        return Path(self.output_dir) / FOLDER / f"{self.name}{suffix}"


def make_jobs(
    clips: Sequence[Path],
    output_dir: Path,
    config: RunConfig,
    *,
    overwrite: bool = False,
    known: Mapping[str, str] | None = None,
    runner: str = RUNNER,
) -> list[ClipJob]:
    """A job for each clip, in their order; a folder of videos stands for each of them.

    Args:
        known: clip (absolute path) -> its name in an earlier command; it stays.

    Raises:
        InputError: a clip is not there or given twice, or an option belongs to a single clip.
    """
    from ..pipelines.kept import with_whole_paths

    _refuse_options_of_one_clip(config)
    paths = [video.absolute() for clip in clips for video in _of(clip)]
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise InputError(f"{path} is given twice")
    options = jsonable(asdict(with_whole_paths(config)))
    names = _names([str(path) for path in paths], dict(known or {}))
    folder = str(output_dir.absolute())
    return [
        ClipJob(name, str(path), folder, options, overwrite, runner) for name, path in zip(names, paths, strict=True)
    ]


def priorities(jobs: Sequence[ClipJob], first: Sequence[str]) -> dict[str, int]:
    """Name of each clip -> how early it comes: the position of the first pattern that fits its name or path.

    Clips that no pattern fits come after all others.

    Raises:
        InputError: a pattern fits no clip.
    """
    for pattern in first:
        if not any(_fits(job, pattern) for job in jobs):
            raise InputError(f"--first {pattern}: no clip of the batch has such a name")
    found = {}
    for job in jobs:
        found[job.name] = next((k for k, pattern in enumerate(first) if _fits(job, pattern)), len(first))
    return found


def _fits(job: ClipJob, pattern: str) -> bool:
    return any(fnmatch(name, pattern) for name in (job.name, job.data, Path(job.data).name))


def _of(clip: Path) -> tuple[Path, ...]:
    from ..frames.clips import clips_of

    if not clip.exists() and clips_of(clip) == (clip,):
        raise InputError(f"{clip} does not exist")
    return clips_of(clip)


def _names(paths: Sequence[str], known: dict[str, str]) -> list[str]:
    """A name for each path: the stem of its file, with the names of its folders where another clip has it."""
    taken = {name.casefold() for name in known.values()}
    names = []
    for path in paths:
        if path not in known:
            parts = [part for part in Path(path).with_suffix("").parts if part != Path(path).anchor]
            if Path(path).is_dir():
                parts[-1] = Path(path).name
            joined = ("-".join(parts[-count:]) for count in range(1, len(parts) + 1))
            shortened = (name.lstrip(".")[-_MOST_NAME:].lstrip(".") or "clip" for name in joined)
            name = next((name for name in shortened if name.casefold() not in taken), None)
            if name is None:
                raise InputError(f"{path}: another clip has its name; rename one of the two")
            known[path] = name
            taken.add(name.casefold())
        names.append(known[path])
    return names


def _refuse_options_of_one_clip(config: RunConfig) -> None:
    given = {
        "--masks": config.easi3r.masks is not None,
        "--corrections": config.easi3r.corrections is not None,
        "--metric-reference": config.dataset.metric_reference is not None,
    }
    for option, is_given in given.items():
        if is_given:
            raise InputError(f"{option} belongs to one clip, and a batch has many: give it to easi3r run")
