"""Runs that are killed at each of their last file operations, and what the same command makes of it afterwards.

``python -m tests.support.killed_run FOLDER KIND EVERY ends|all`` prints one JSON object. Every run is a fork of one
process that has loaded everything; a hook of the interpreter counts the operations and kills the process before one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from easi3r_ns.core.config import DatasetConfig, FrameConfig
from easi3r_ns.core.errors import Easi3RError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.frames import ImageGeometry
from easi3r_ns.pipelines import parts, run
from easi3r_ns.pipelines.pipeline import RunConfig

SIZE = (64, 48)
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")
"""Audit events of operations that change a folder, beside opening a file to write."""
KINDS = {
    "whole": RunConfig(FrameConfig(0), dataset=DatasetConfig(num_downscales=0, depths=False, report=False)),
    "report": RunConfig(FrameConfig(0), dataset=DatasetConfig(num_downscales=0, depths=False)),
    "split": RunConfig(
        FrameConfig(0, on_cut="split"), dataset=DatasetConfig(num_downscales=0, depths=False, report=False)
    ),
}


class Instant:
    """A pipeline whose cameras stand side by side before a wall."""

    has_depth = True
    weights = None
    geometry = ImageGeometry(64, 16)

    def check(self, log: RunLog) -> None: ...

    def forecast(self, data: Path, log: RunLog) -> None: ...

    def prepare(self, log: RunLog) -> None: ...

    def reconstruct(self, frames: Frames, cache: Any, log: RunLog, **options: Any) -> Scene:
        count, height, width = frames.images.shape[:3]
        T_world_cam = np.tile(np.eye(4), (count, 1, 1))
        T_world_cam[:, 0, 3] = 0.1 * np.arange(count)
        cache.put("stage", "key", {})
        return Scene(
            images=frames.images,
            T_world_cam=T_world_cam,
            focals=np.full(count, 60.0),
            principal_point=np.array([(width - 1) / 2, (height - 1) / 2]),
            depth=np.full((count, height, width), 2.0, dtype=np.float32),
            confidence=np.full((count, height, width), 3.0, dtype=np.float32),
            dynamic=DynamicMasks(
                np.zeros((count, height, width), dtype=bool), np.zeros((count, 3, 4), dtype=np.float32), 0.5
            ),
            pixel_map=frames.pixel_map,
            times=frames.times,
            indices=frames.indices,
            names=frames.names,
            source_paths=frames.source_paths,
            provenance={"weights": {"name": "none"}},
        )


@dataclass
class SaidLog(RunLog):
    """Collects what is said beside the warnings, of all parts of a run."""

    said: list[str] = field(default_factory=list)

    def info(self, message: str) -> None:
        self.said.append(message)


class Counter:
    """Counts the operations below a folder once it is started, and kills the process before one of them."""

    def __init__(self, folder: Path, fatal: int | None) -> None:
        self.folder, self.fatal = str(folder), fatal
        self.counts, self.names = False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.counts or not self._changes(event, arguments):
            return
        if len(self.names) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(f"{event} {arguments[0]}")

    def _changes(self, event: str, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0] if arguments else None
        if event == "open":
            changes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            return changes and str(path).startswith(self.folder)
        # shutil.rmtree names files relative to the folder that it has open.
        return event in CHANGES and (str(path).startswith(self.folder) or not str(path).startswith("/"))


def data_of(folder: Path, kind: str) -> Path:
    """Images of two frames, of ten for the parts of five."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(10 if kind == "split" else 2):
        cv2.imwrite(str(data / f"{number}.png"), rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
    return data


def command(data: Path, out: Path, kind: str, fatal: int | None = None, overwrite: bool = False) -> dict[str, Any]:
    """The command in this process, with the operations from the writing of the dataset on."""
    counter, log = Counter(out, fatal), SaidLog()
    write = run.write_dataset

    def write_counted(*arguments: Any, **options: Any) -> Any:
        counter.counts = True
        return write(*arguments, **options)

    run.write_dataset = write_counted
    try:
        made = parts.process_parts(data, out, KINDS[kind], overwrite=overwrite, log=log)
        result: dict[str, Any] = {"code": 0, "made": len(made)}
    except Easi3RError as error:
        result = {"code": error.exit_code, "error": str(error)}
    counter.counts = False
    return result | {"said": log.said, "operations": counter.names}


def forked(work: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """``work(...)`` in a child process; where it is killed, its signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.write(writer, json.dumps(work(*arguments, **options)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(text) if status == 0 else {"status": status}


def held(out: Path) -> dict[str, str]:
    """What a folder holds: files with their content, where it does not tell times, and empty folders."""
    names = {}
    for path in sorted(out.rglob("*")):
        timed = path.suffix in (".json", ".html") and path.name != ".easi3r_files.json"
        if path.is_file():
            names[str(path.relative_to(out))] = "" if timed else path.read_bytes().hex()
        elif not any(path.iterdir()):
            names[str(path.relative_to(out))] = "empty folder"
    return names


def last_instants(operations: list[str]) -> list[int]:
    """Positions of the operations after a dataset became complete, until another one is begun."""
    positions, complete = [], False
    for position, operation in enumerate(operations):
        if complete:
            complete = operation.startswith(("os.remove", "os.rmdir"))
        if complete:
            positions.append(position)
        complete |= operation.startswith("os.rename") and operation.endswith("transforms.unchecked.json")
    return positions


def main(folder: Path, kind: str, every: int = 1, ends: bool = True) -> None:
    """Kill the run at every so many of its operations, or of those in its last instants, and print what was left."""
    parts.find_parts = lambda *_: ((0.0, 4.0, 5), (5.0, 9.0, 5))
    run.choose_pipeline = lambda config: Instant()
    parts.choose_weights = run.choose_weights = lambda data, workspace, config, log: run.WeightsChoice("none")
    data, out = data_of(folder, kind), folder / "out"
    reference = command(data, folder / "reference", kind)  # loads everything, too
    wanted = held(folder / "reference")
    operations = reference["operations"]
    results = []
    for fatal in (last_instants(operations) if ends else range(len(operations)))[::every]:
        killed = forked(command, data, out, kind, fatal)
        complete = (out / "transforms.json").exists() or (out / "part_01" / "transforms.json").exists()
        again = forked(command, data, out, kind)
        same = held(out) == wanted
        unlike = sorted(set(held(out)) ^ set(wanted))
        third = forked(command, data, out, kind)
        results.append({"killed": killed, "complete": complete, "again": again, "same": same, "unlike": unlike})
        results[-1] |= {"third": third, "untouched": held(out) == wanted, "at": operations[fatal]}
        _empty(out)
    print(json.dumps({"reference": reference, "results": results}))


def _empty(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "ends")
