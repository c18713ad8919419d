"""The process that makes the dataset of one clip: ``python -m easi3r_ns.batch.runner``, with the job on its input.

It reports its stage and its outcome in a file of the batch, and ends when the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import Easi3RError, InputError, OutputError, shortened
from ..core.memory import lack_of_memory
from ..core.runlog import RunLog, stage_words
from ..storage.files import make_folder, write_json
from .jobs import ClipJob
from .work import Examination

if TYPE_CHECKING:
    from ..core.scene import Scene
    from ..pipelines.parts import Part
    from ..plan.forecast import Forecast
    from ..plan.geometric import GeometricForecast

ORPHANED = 75
"""Exit code after the process that started this one is gone."""
_WAIT_SECONDS = 20.0
"""How long a run waits for one before it, whose worker was killed, to end."""
_THUMBNAIL_WIDTH = 192


def examine(job: ClipJob) -> Examination:
    """Whether the dataset is there already, and what a run will need; loads no weights."""
    from ..pipelines.finished import is_finished
    from ..pipelines.run import WORKSPACE

    config, data, dataset = job.config, Path(job.data), job.dataset
    try:
        if config.frames.on_cut != "split" and is_finished(data, dataset, config, dataset / WORKSPACE, RunLog()):
            return Examination(finished=True, datasets=tuple(_on_disk(job, {})))
        plan = _plan(job)
    except Easi3RError as error:
        return Examination(failure=one_line(error))
    if plan is None:
        return Examination()
    on_gpu, share = getattr(plan, "gpu_bytes", 0.0) if plan.device == "cuda" else 0.0, 0.0
    if on_gpu:
        from ..network.compute import total_memory

        share = min(1.0, on_gpu / total_memory())
    return Examination(memory_bytes=plan.memory_bytes, gpu_share=share, seconds=plan.seconds, words=str(plan))


def _plan(job: ClipJob) -> Forecast | GeometricForecast | None:
    from ..network.sources import AUTO
    from ..pipelines.choice import judge_weights
    from ..pipelines.pipeline import choose_pipeline
    from ..pipelines.several import makes_several

    config, data, log = job.config, Path(job.data), RunLog()
    if config.easi3r.weights == AUTO and not makes_several(data, config):
        choice = judge_weights(data, config, log)
        if choice.plan is not None:
            return choice.plan
        config = choice.applied(config)
    pipeline = choose_pipeline(config)
    pipeline.check(log)
    return pipeline.forecast(data, log)


def one_line(error: BaseException) -> str:
    """An error for a table: in one line, without the end of a long one."""
    return shortened(" ".join(str(error).split()) or type(error).__name__, 400)


@dataclass
class ReportingLog(RunLog):
    """Writes messages to the log file, and the stage that is worked on to the file of reports."""

    job: ClipJob | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    """What every report holds: which process on which machine it comes from."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        self.report(stage=stage_words(name))
        self._write(f"{stage_words(name)} ...")
        with super().stage(name, total) as advance:
            yield advance
        self._write(f"{stage_words(name)}: {self.stages[-1].seconds:.1f} s")

    def info(self, message: str) -> None:
        super().info(message)
        self._write(message)

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self._write(f"warning: {message}")
        super().warn(message)

    def report(self, **facts: Any) -> None:
        """Replace the report of this clip."""
        assert self.job is not None
        write_json(self.job.file(".json"), self.origin | facts)

    def _write(self, message: str) -> None:
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()


Make = Callable[[ClipJob, ReportingLog], list[dict[str, Any]]]
"""Makes the dataset of a job and describes it, as :attr:`~.record.ClipRecord.datasets` has it."""


def make(job: ClipJob, log: ReportingLog) -> list[dict[str, Any]]:
    """Run on the clip. An earlier run may have finished it, or parts of it; of these less is known.

    Raises:
        Easi3RError: as the run.
    """
    from ..align.long.spread import windows_shared_in
    from ..pipelines.parts import process_parts

    _wait_for_the_folder(job.dataset)
    with windows_shared_in(job.windows) if job.shares_windows else contextlib.nullcontext():
        parts = process_parts(Path(job.data), job.dataset, job.config, overwrite=job.overwrite, log=log)
    made = [_described(part, job) for part in parts]
    return _on_disk(job, {facts["folder"]: facts for facts in made})


def _on_disk(job: ClipJob, made: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The datasets of a clip, whoever made them; ``made`` describes some, by their folders."""
    from ..dataset.nerfstudio import TRANSFORMS
    from ..report.card import REPORT

    parts = [job.dataset, *sorted(job.dataset.glob("part_[0-9][0-9]"))]
    found = []
    for folder in (part for part in parts if (part / TRANSFORMS).is_file()):
        name = folder.relative_to(job.output_dir).as_posix()
        picture = _picture(folder, job)
        shown = {"picture": picture.name} if picture.is_file() else {}
        found.append(made.get(name, {"folder": name, "report": (folder / REPORT).is_file()} | shown))
    return found


def _picture(folder: Path, job: ClipJob) -> Path:
    return job.file(f"{'' if folder == job.dataset else '-' + folder.name}.jpg")


def _described(part: Part, job: ClipJob) -> dict[str, Any]:
    folder, card, scene = part.result.transforms_path.parent, part.result.card, part.result.scene
    facts: dict[str, Any] = {
        "folder": folder.absolute().relative_to(job.output_dir).as_posix(),
        "frames": len(scene),
        "warnings": len(part.log.warnings),
        "report": card.report is not None,
    }
    if card.verdict is not None:
        against = card.verdict.against
        facts |= {"level": int(card.verdict.level), "verdict": card.verdict.level.words.lower()}
        facts["reason"] = against[0].reason if against else ""
    facts["made"], picture = True, _picture(folder, job)
    _write_thumbnail(scene, picture)
    return facts | {"picture": picture.name}


def _write_thumbnail(scene: Scene, path: Path) -> None:
    """The middle frame, small, with what moves in red."""
    import cv2
    import numpy as np

    from ..storage.files import write_bytes

    middle = len(scene) // 2
    image = scene.images[middle].astype(np.float32)
    image[scene.dynamic.masks[middle]] = 0.5 * image[scene.dynamic.masks[middle]] + [110, 10, 10]
    height = max(1, round(image.shape[0] * _THUMBNAIL_WIDTH / image.shape[1]))
    small = cv2.resize(image, (_THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
    bgr = np.ascontiguousarray(np.clip(small, 0, 255).astype(np.uint8)[..., ::-1])
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 75])
    write_bytes(path, bytes(encoded))


def _wait_for_the_folder(folder: Path) -> None:
    """Return when no other run writes there, or after some time: the run itself then says so."""
    from ..storage.lock import only_writer

    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        try:
            with only_writer(folder):
                return
        except OutputError as error:
            if "another run" not in str(error):
                return
            time.sleep(0.5)


def run_job(job: ClipJob, make: Make, parent: int) -> int:
    """Make the dataset of a job and report how it ended; the exit code."""
    log = ReportingLog(job=job)
    log.origin = {"pid": os.getpid(), "worker": parent, "node": socket.gethostname()}
    make_folder(job.file(".log").parent)
    log.report(stage="start")
    begin = time.perf_counter()
    outcome: dict[str, Any] = {"exit_code": 0, "reason": "", "datasets": [], "lack": False}
    try:
        outcome["datasets"] = make(job, log)
    except Easi3RError as error:
        outcome |= {"exit_code": error.exit_code, "reason": one_line(error)}
    except Exception as error:
        traceback.print_exc()
        lack = lack_of_memory(error)
        reason = lack or f"{one_line(error)} ({type(error).__name__}; see {job.file('.log')})"
        outcome |= {"exit_code": InputError.exit_code if lack else 1, "reason": reason, "lack": lack is not None}
    outcome |= {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time()}
    log.report(stage="end", outcome=outcome)
    return int(outcome["exit_code"])


def main(make: Make = make) -> None:
    """Read a job from standard input and do it."""
    content = read_order()
    raise SystemExit(run_job(ClipJob(**content["job"]), make, int(content["worker"])))


def read_order() -> dict[str, Any]:
    """What the process that started this one writes in one line; this one ends when that does, however it ended."""
    received = bytearray()
    while not received.endswith(b"\n"):
        byte = os.read(0, 1 << 16)
        if not byte:
            raise SystemExit(ORPHANED)
        received += byte
    threading.Thread(target=_end_when_orphaned, daemon=True).start()
    order: dict[str, Any] = json.loads(received)
    return order


def _end_when_orphaned() -> None:
    """Standard input ends when the process that holds its other end does, however that ended."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
