"""What a user would run instead, scored with the same code: nerfstudio's own processor, which calls COLMAP."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.code_state import code_state
from ..core.errors import InputError, MissingExtraError
from ..core.runlog import RunLog
from ..frames import open_source
from ..importers.folder import importer_of
from ..importers.recording import ImportOptions
from ..pipelines.run import RunConfig
from ..storage.cache import digest
from ..storage.files import jsonable, make_folder, write_json
from .datasets import Capture
from .peers import frames_of, score_folder
from .runs import LOG, RUN, kinds_of_truth
from .tables import Result

NAME = "ns-process-data"
PROGRAM = "colmap"
"""What it calls."""
TRANSFORMS = "transforms.json"


def evaluate_ns_process_data(
    captures: Sequence[Capture], output_dir: Path, row: str, config: RunConfig, *, again: bool, log: RunLog
) -> list[Result]:
    """Run ``ns-process-data images`` on the captures and score its cameras; one that fails is a Result with its error.

    It takes all images of a capture and has options of its own: none of ``config`` has an effect.

    What was run on the same images is not run again, whether it succeeded or not, without ``again``.

    Raises:
        MissingExtraError: nerfstudio's command or the program ``colmap`` is not there.
    """
    command = _command()
    results = []
    for number, capture in enumerate(captures, start=1):
        folder = output_dir / row / capture.name
        result = Result(row, capture.name, kinds_of_truth(capture))
        try:
            names = frames_of(capture)
            state = _state(folder)
            key = digest({"baseline": NAME, "source": jsonable(open_source(capture.data).signature())})
            if again or state.get("key") != key or not state.get("ended"):
                log.info(f"{number}/{len(captures)} {capture.name}: running {NAME}, see {folder / LOG}")
                state = _run(command, capture, folder, key)
            result = replace(result, requested=len(names), cpu_seconds=state["cpu_seconds"], error=state.get("error"))
            if result.error is None:
                result = replace(result, scores=score_folder(folder, capture, _numbers(folder)))
        except InputError as error:
            result = replace(result, error=str(error))
        log.info(f"{number}/{len(captures)} {capture.name}: {result.error or 'scored'}")
        results.append(result)
        entry: dict[str, Any] = {"row": row, "version": __version__, "code": [code_state()]}
        entry["options"] = f"{NAME} images --num-downscales 0"
        write_json(output_dir / f"{row}.json", entry | {"results": [asdict(found) for found in results]})
    return results


def _command() -> list[str]:
    beside = Path(sys.executable).with_name(NAME)
    found = str(beside) if beside.exists() else shutil.which(NAME)
    if found is None:
        raise MissingExtraError(f"--baseline {NAME} runs nerfstudio's own processor: pip install nerfstudio")
    if shutil.which(PROGRAM) is None:
        raise MissingExtraError(
            f"--baseline {NAME} calls the program {PROGRAM}, which is not on the path: install COLMAP "
            "(https://colmap.github.io/install.html); --baseline colmap needs no program"
        )
    return [found]


def _state(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _run(command: Sequence[str], capture: Capture, folder: Path, key: str) -> dict[str, Any]:
    if folder.exists() and any(folder.iterdir()) and not (folder / RUN).is_file():
        raise InputError(f"{folder} is in the way and is not ours: move it, or give another --row or --output-dir")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    arguments = ["images", "--data", str(capture.data), "--output-dir", str(folder), "--num-downscales", "0"]
    begin = _children_seconds()
    with open(folder / LOG, "wb") as file:
        code = subprocess.run([*command, *arguments], stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    state: dict[str, Any] = {"key": key, "ended": True, "code": code_state(), "version": __version__}
    state["cpu_seconds"] = _children_seconds() - begin
    if not (folder / TRANSFORMS).is_file():  # it ends with 0 where COLMAP found nothing, too
        state["error"] = f"{NAME} ended with code {code} and left no {TRANSFORMS}: see {folder / LOG}"
    write_json(folder / RUN, state)
    return state


def _children_seconds() -> float:
    """CPU seconds of all processes that ended; wall clock where the system does not count them."""
    try:
        import resource
    except ImportError:
        return time.monotonic()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _numbers(folder: Path) -> list[int]:
    """Which frames of the clip it placed: it numbers its copies from 1, in the order of the clip."""
    importer = importer_of(folder)
    recording = None if importer is None else importer.read(folder, ImportOptions())
    images = None if recording is None else recording.images
    if not isinstance(images, tuple):
        raise InputError(f"{folder} is not what {NAME} writes")
    found = [re.fullmatch(r"frame_(\d+)", path.stem) for path in images]
    return [int(match[1]) - 1 if match else -1 for match in found]
