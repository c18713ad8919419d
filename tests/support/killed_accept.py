"""A dataset that is solved again and accepted, by a process that is killed at each of its file operations.

``python -m tests.support.killed_accept FOLDER EVERY`` prints one JSON object, see :func:`main`.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import Frames
from easi3r_ns.motion.corrections import corrected
from easi3r_ns.pipelines.again import accept, again_folder, finish_accept, solve_again
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import process
from easi3r_ns.storage.corrections import (
    AS_FOUND,
    FOLDER,
    MOVES,
    Corrections,
    frame_sources,
    read_corrections,
    write_corrections,
)
from easi3r_ns.storage.files import read_png
from tests.support.killed_run import SIZE, Counter, Instant, forked

COUNT = 5


class InstantWithMasks(Instant):
    """Nothing moves but what a person says; keeps the number of its calls."""

    calls = 0

    def reconstruct(self, frames: Frames, cache: Any, log: RunLog, **options: Any) -> Scene:
        type(self).calls += 1
        with log.stage("mapping", len(frames)) as advance:
            scene = super().reconstruct(frames, cache, log, **options)
            for _ in range(len(frames)):
                advance(1)
        return replace(scene, dynamic=corrected(replace(scene.dynamic, source="geometry"), frames.by_hand))


def made(folder: Path) -> Path:
    """A dataset of five frames that keeps its stages."""
    data = folder / "data"
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        cv2.imwrite(str(data / f"{number}.png"), rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
    options = DatasetConfig(num_downscales=0, depths=False, report=False, mask_growth=0)
    config = RunConfig(FrameConfig(0), Easi3RConfig(weights="none"), dataset=options, keep_stages=True)
    process(data, folder / "out", config, overwrite=False, log=RunLog(), pipeline=InstantWithMasks())
    return folder / "out"


def marks() -> np.ndarray:
    image = np.full((SIZE[1], SIZE[0]), AS_FOUND, dtype=np.uint8)
    image[:24, :32] = MOVES
    return image


def correct(out: Path) -> Corrections:
    """Two frames are corrected, and the first is excluded, so that names change."""
    names = sorted(frame_sources(out))
    sources = frame_sources(out)
    own = Corrections(SIZE, {names[1]: marks(), names[3]: marks()}, ["stroke"], (names[0],), (), sources)
    write_corrections(out / FOLDER, own)
    (out / FOLDER / "notes.txt").write_text("mine", encoding="utf-8")
    return own


def state(out: Path) -> str:
    """'old' or 'new' for the whole dataset in a folder, or what is wrong with it."""
    if not (out / "transforms.json").is_file():
        return "none"
    frames = json.loads((out / "transforms.json").read_text(encoding="utf-8"))["frames"]
    indices = [frame["frame_index"] for frame in frames]
    moving = []
    for frame in frames:
        original = out.joinpath(*[".."] * 0) / frame["file_path"]
        moving.append(bool((read_png(out / frame["mask_path"]) == 0).any()))
        image = read_png(original)
        if image.shape[:2] != (SIZE[1], SIZE[0]):
            return "damaged"
    told = {(0, 1, 2, 3, 4): ("old", [False] * 5), (1, 2, 3, 4): ("new", [True, False, True, False])}
    name, expected = told.get(tuple(indices), ("unknown", []))
    return name if moving == expected else f"{name} with masks {moving}"


def said(out: Path) -> list[Any]:
    """What the corrections say, by the frames of the source."""
    found = read_corrections(out / FOLDER)
    marked = sorted(found.sources[name][1] for name in found.marks)
    return [marked, [found.sources[name][1] for name in found.excluded], list(found.strokes)]


def _accept(out: Path, fatal: int | None = None) -> list[str]:
    counter = Counter(out, fatal)
    counter.counts = True
    accept(out)
    counter.counts = False
    return counter.names


def main(folder: Path, every: int) -> None:
    """``operations`` of an undisturbed accept, and for each that was killed (every so many) what was left."""
    out = made(folder / "first")
    correct(out)
    solve_again(out, pipeline=InstantWithMasks())
    template, results = folder / "template", []
    shutil.copytree(folder / "first", template)
    operations = _accept(out)
    for fatal in range(0, len(operations), every):
        place = folder / "killed"
        shutil.copytree(template, place)
        killed = forked(_accept, place / "out", fatal)
        left = [state(place / "out"), state(again_folder(place / "out"))]
        again = forked(lambda at: finish_accept(at) or {}, place / "out")
        after = [state(place / "out"), again_folder(place / "out").exists(), said(place / "out")]
        notes = (place / "out" / FOLDER / "notes.txt").read_text(encoding="utf-8")
        results.append({"at": operations[fatal], "killed": killed, "left": left, "again": again, "after": after})
        results[-1] |= {"notes": notes, "names": sorted(read_corrections(place / "out" / FOLDER).names)}
        shutil.rmtree(place)
    print(json.dumps({"operations": len(operations), "whole": [state(out), said(out)], "results": results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
