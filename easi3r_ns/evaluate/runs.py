"""Reconstructs clips with ground truth, scores the reconstructions and writes tables of results.

``OUTPUT/ROW/SEQUENCE/`` is the dataset of one clip under one row of options, with ``run.json`` (what it was made from)
and ``log.txt`` beside it; ``OUTPUT/ROW.json`` holds the row's scores; ``OUTPUT/results.json`` and ``results.md`` hold
all rows. A command computes the scores of its sequences anew; it makes a dataset anew only when something that decides
the reconstruction has changed. The row keeps the scores of sequences from earlier commands with the same options.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from .. import __version__
from ..core.code_state import code_state
from ..core.config import Easi3RConfig, FrameConfig, option_words
from ..core.errors import AlignmentError, Easi3RError, InputError
from ..core.runlog import RunLog
from ..dataset.scene_folder import find_scene
from ..frames import open_source
from ..frames.select import choose_frames
from ..network.sources import AUTO, resolve
from ..network.weights import describe
from ..pipelines.choice import choose_weights
from ..pipelines.geometric import NAME as NONE
from ..pipelines.run import RunConfig, process
from ..storage.cache import digest
from ..storage.files import jsonable, make_folder, natural_key, write_json, write_text
from .datasets import Capture
from .scoring import score_scene
from .tables import Result, Section, markdown, sections

logger = logging.getLogger(__name__)

RUN, LOG = "run.json", "log.txt"
RESULTS, TABLES = "results.json", "results.md"


@dataclass(frozen=True)
class CaptureRun:
    """One clip under one row of options."""

    capture: Capture
    folder: Path
    config: RunConfig
    key: str
    """Digest of everything that the reconstruction depends on."""


def evaluate_captures(
    captures: Sequence[Capture], output_dir: Path, row: str, config: RunConfig, *, again: bool, log: RunLog
) -> list[Result]:
    """Reconstruct and score the captures, each in a process of its own, and write the row's file.

    A capture that fails is a Result with its error. ``again`` makes finished datasets anew. Other sequences that the
    row's file already holds stay in it if the same options, weights and version made them; they are not returned.

    Raises:
        CheckpointError: the weights are not there; InputError: a capture cannot be opened.
    """
    settings = {
        "version": __version__,
        "config": jsonable(asdict(config)),
        "weights": _identity_of_weights(config.easi3r, log),
    }
    row_file, row_key = output_dir / f"{row}.json", digest(settings)
    jobs = [_job(capture, output_dir / row, config, settings) for capture in captures]
    row_results = _earlier_results(row_file, row_key, log)
    results = []
    for number, job in enumerate(jobs, start=1):
        make_folder(job.folder)
        state = _state(job.folder)
        if again or not _is_settled(job, state):
            log.info(f"{number}/{len(jobs)} {job.capture.name}: running, see {job.folder / LOG}")
            state = _reconstruct(job, state, again)
        result = _result(job, row, state)
        log.info(f"{number}/{len(jobs)} {job.capture.name}: {result.error or 'scored'}")
        results.append(result)
        row_results[result.sequence] = asdict(result)
        entry: dict[str, Any] = {"row": row, "key": row_key, "version": __version__, "options": options_text(config)}
        entry |= {"weights": settings["weights"], "code": _codes(output_dir / row, row_results)}
        write_json(row_file, entry | {"results": list(row_results.values())})
    return results


def with_chosen_weights(captures: Sequence[Capture], config: RunConfig, log: RunLog) -> RunConfig:
    """The options with what ``--weights auto`` means for all captures together: the network where every one takes it.

    Raises:
        Easi3RError: as :func:`~easi3r_ns.pipelines.choice.choose_weights`.
    """
    if config.easi3r.weights != AUTO:
        return config
    for capture in captures:
        choice = choose_weights(capture.data, None, config, log)
        if choice.weights == NONE:
            break
    log.info(f"{capture.name}: {choice.line}")
    return choice.applied(config)


def score_dataset(dataset: Path, capture: Capture, row: str) -> Result:
    """Score an existing dataset. Raises InputError when it holds no scene or does not fit the truth."""
    scene = find_scene(dataset)
    return Result(row, capture.name, kinds_of_truth(capture), len(scene), scores=score_scene(scene, capture))


def write_tables(output_dir: Path) -> list[Section]:
    """Join the files of all rows into ``results.json`` and ``results.md``."""
    rows = read_rows(output_dir)
    tables = sections([_read_result(entry) for row in rows for entry in row["results"]])
    options = [f"* `{row['row']}`: `{row['options']}` ({state_of_row(row)})" for row in rows]
    write_json(output_dir / RESULTS, {"rows": rows})
    write_text(output_dir / TABLES, "\n".join(options) + "\n\n" + markdown(tables))
    return tables


def read_results(output_dir: Path) -> list[Result]:
    """The results of all rows."""
    return [_read_result(entry) for row in read_rows(output_dir) for entry in row["results"]]


def state_of_row(row: Mapping[str, Any]) -> str:
    """Which version, code (:func:`~easi3r_ns.core.code_state.code_state`) and weights made a row, in words."""
    codes = [f"code {' and '.join(row['code'])}"] if row.get("code") else []
    sha256 = (row.get("weights") or {}).get("sha256")
    weights = [f"weights {sha256[:12]}"] if sha256 else []
    return ", ".join([f"version {row['version']}", *codes, *weights])


def read_rows(output_dir: Path) -> list[dict[str, Any]]:
    """The files of all rows."""
    files = sorted(output_dir.glob("*.json"), key=lambda p: natural_key(p.stem))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files if path.name != RESULTS]


def kinds_of_truth(capture: Capture) -> tuple[str, ...]:
    """The kinds of truth that a capture has, which decide the tables that it appears in."""
    known = {
        "cameras": bool(capture.T_world_cam) and not capture.fixed_camera,
        "fixed": capture.fixed_camera,
        "depth": bool(capture.depth),
        "masks": bool(capture.masks),
    }
    return tuple(kind for kind, there in known.items() if there)


def options_text(config: RunConfig) -> str:
    """The options of ``easi3r run`` that differ from their defaults, as on the command line."""
    words: list[str] = []
    for part in fields(config):
        if is_dataclass(part.default) and not isinstance(part.default, type):
            prefix = "align." if part.name == "align" else ""
            words += option_words(asdict(getattr(config, part.name)), asdict(part.default), prefix)
    return " ".join(words) or "(defaults)"


def _job(capture: Capture, row_folder: Path, config: RunConfig, settings: dict[str, Any]) -> CaptureRun:
    config = _with_graph(config, capture)
    own = {"graph": capture.graph} if capture.graph else {}
    key = digest(settings | own | {"source": jsonable(open_source(capture.data).signature())})
    return CaptureRun(capture, row_folder / capture.name, replace(config, frames=_as_truth(config.frames)), key)


def _with_graph(config: RunConfig, capture: Capture) -> RunConfig:
    """The options with the pair graph that a protocol asks for in clips of this length, unless one is given."""
    if not capture.graph or config.easi3r.graph != Easi3RConfig().graph:
        return config
    return replace(config, easi3r=replace(config.easi3r, graph=capture.graph))


def _as_truth(select: FrameConfig) -> FrameConfig:
    """Whole frames at evenly spaced times: the truth belongs to such frames, and rows are compared frame by frame.

    Raises:
        InputError: the frames are to be cropped.
    """
    if any(select.crop_factor):
        raise InputError("--crop-factor: the truth of a capture belongs to whole frames; leave it out")
    return replace(select, sharpest=False, crop_bars=False)


def _earlier_results(row_file: Path, row_key: str, log: RunLog) -> dict[str, dict[str, Any]]:
    """Sequence -> result, from the row's file; none, with a message, when other settings made them."""
    try:
        entry = json.loads(row_file.read_text(encoding="utf-8"))
        results = {result["sequence"]: result for result in entry["results"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if entry.get("key") != row_key:
        log.info(f"{row_file}: its results were made with other options, weights or version and are replaced")
        return {}
    return results


def _identity_of_weights(config: Easi3RConfig, log: RunLog) -> Any:
    """Everything about the network that can change a result: the hash of its file, its architecture, and what its card
    recommends.
    """
    if config.weights == "none":
        return None
    _, info = describe(resolve(config.weights, log=log))
    no_influence = ("name", "source", "licence", "non_commercial")
    return jsonable({name: value for name, value in asdict(info).items() if name not in no_influence})


def _codes(folder: Path, sequences: Iterable[str]) -> list[str]:
    """The states of the code that reconstructed the sequences of a row; one, unless the code changed in between."""
    found = {_state(folder / sequence).get("code") for sequence in sequences}
    return sorted(code for code in found if code)


def _state(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _is_settled(job: CaptureRun, state: dict[str, Any]) -> bool:
    """Whether a run with the job's key has ended, either with a dataset or because no cameras could be found."""
    if state.get("key") != job.key:
        return False
    done = bool(state.get("finished")) and (job.folder / "transforms.json").is_file()
    return done or state.get("exit_code") == AlignmentError.exit_code


def _reconstruct(job: CaptureRun, state: dict[str, Any], again: bool) -> dict[str, Any]:
    """Run in a process of its own, so that a crash or a lack of memory affects this clip only."""
    goes_on = not again and state.get("key") == job.key and not (job.folder / "transforms.json").exists()
    write_json(job.folder / RUN, {"key": job.key, "finished": False})
    child = multiprocessing.get_context("spawn").Process(target=_work, args=(job, not goes_on))
    child.start()
    try:
        child.join()
    except KeyboardInterrupt:
        child.join()  # the terminal sends Ctrl-C to the child as well
        raise
    state = _state(job.folder)
    if not state.get("finished") and "error" not in state:
        state = {"key": job.key, "finished": False, "error": f"the process ended with code {child.exitcode}"}
        write_json(job.folder / RUN, state)
    return state


class _LineLog(RunLog):
    """Writes messages, and a line when a stage begins and ends, to standard output."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        self.info(f"{name} ...")
        with super().stage(name, total) as advance:
            yield advance
        self.info(f"{name}: {self.stages[-1].cpu_seconds:.1f} CPU seconds")

    def info(self, message: str) -> None:
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()

    def warn(self, message: str) -> None:
        self.info(f"warning: {message}")
        super().warn(message)


def _work(job: CaptureRun, overwrite: bool) -> None:
    """Runs in the child process; all of its output goes to the log file."""
    log, state = _LineLog(), {"key": job.key, "finished": False, "version": __version__, "code": code_state()}
    with _output_to(job.folder / LOG):
        try:
            state["requested"] = _requested(job, log)
            process(job.capture.data, job.folder, job.config, overwrite=overwrite, log=log)
            state["finished"] = True
        except Easi3RError as error:
            state |= {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:
            traceback.print_exc()
            state |= {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
        state |= {"cpu_seconds": sum(stage.cpu_seconds for stage in log.stages), "warnings": log.warnings}
        write_json(job.folder / RUN, state)


def _requested(job: CaptureRun, log: RunLog) -> list[str]:
    """The keys of the frames that the run will select."""
    source, select = open_source(job.capture.data), job.config.frames
    chosen = choose_frames(source.times(select, log), select, source.unit)
    return [job.capture.key(source.name(int(index)), int(index)) for index in chosen]


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    # Redirects the descriptors and not only sys.stdout, because native libraries write to them directly.
    with path.open("w", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # in the encoding of the console by default, which lacks letters
                stream.reconfigure(encoding="utf-8")
        yield
        sys.stdout.flush()


def _result(job: CaptureRun, row: str, state: dict[str, Any]) -> Result:
    result = Result(
        row,
        job.capture.name,
        kinds_of_truth(job.capture),
        requested=len(state["requested"]) if "requested" in state else None,
        cpu_seconds=state.get("cpu_seconds"),
        error=state.get("error"),
    )
    if result.error is not None:
        return result
    try:
        return replace(result, scores=score_scene(find_scene(job.folder), job.capture, state.get("requested")))
    except InputError as error:
        return replace(result, error=str(error))
    except Exception as error:
        # A bug in a score must not lose the results of the other clips; the traceback goes to the log.
        logger.exception("%s cannot be scored", job.folder)
        return replace(result, error=f"not scored: {type(error).__name__}: {error}")


def _read_result(entry: dict[str, Any]) -> Result:
    return _read(Result, entry)


def _read(kind: type, entry: dict[str, Any]) -> Any:
    """Rebuild a dataclass from the dict that ``asdict`` and JSON made of it; lists become tuples."""
    hints, values = get_type_hints(kind), {}
    for name, value in entry.items():
        types = (t for t in (hints[name], *get_args(hints[name])) if isinstance(t, type) and is_dataclass(t))
        inner: type | None = next(types, None)
        if inner is not None and value is not None:
            values[name] = _read(inner, value)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
