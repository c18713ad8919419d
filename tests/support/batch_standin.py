"""Runs of a batch that take no time: a clip is a text file that says what happens to it.

As a program, it is the process of one clip; see :mod:`easi3r_ns.batch.runner`. Words of a clip: ``train``; ``slow``
waits until a file ``go`` lies beside the clip; ``bad`` fails; ``kill N`` kills its process in the first N attempts,
``worker N`` its worker; ``bug``; ``lack N`` runs out of memory; ``grow`` allocates more and more; ``refused`` fails
when it is examined; ``memory GIB`` and ``gpu SHARE`` are its forecast.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from easi3r_ns.batch.jobs import ClipJob
from easi3r_ns.batch.runner import ReportingLog, main
from easi3r_ns.batch.work import Examination
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.storage.files import make_folder

MADE = "made.json"


def words_of(job: ClipJob) -> dict[str, list[str]]:
    """First word of each line -> the rest of it."""
    return {line.split()[0]: line.split()[1:] for line in Path(job.data).read_text(encoding="utf-8").splitlines()}


def examine(job: ClipJob) -> Examination:
    words = words_of(job)
    if (job.dataset / MADE).is_file():
        return Examination(finished=True, datasets=({"folder": job.name, "report": True},))
    if "refused" in words:
        return Examination(failure="this clip cannot be opened")
    memory, share = (float(words.get(word, ["0"])[0]) for word in ("memory", "gpu"))
    return Examination(memory_bytes=memory * 2**30, gpu_share=share, words=f"{memory} GiB")


def make(job: ClipJob, log: ReportingLog) -> list[dict[str, Any]]:
    words = words_of(job)
    make_folder(job.dataset)
    tried = job.dataset / "attempts"
    number = int(tried.read_text()) + 1 if tried.exists() else 1
    tried.write_text(str(number))
    with log.stage("frames"):
        for word, process in (("kill", os.getpid()), ("worker", log.origin["worker"])):
            if word in words and number <= int(words[word][0]):
                os.kill(process, signal.SIGKILL)
                time.sleep(30)
        if "lack" in words and number <= int(words["lack"][0]):
            raise MemoryError
        if "bug" in words:
            raise KeyError("of the code")
        if "bad" in words:
            raise AlignmentError("no cameras were found:\nuse another clip")
        held = []
        while "grow" in words and len(held) < 64:  # 2 GiB, whatever the code under test does
            held.append(np.ones(2**22))
            time.sleep(0.02)
        while "slow" in words and not Path(job.data).with_name("go").exists():
            time.sleep(0.05)
    (job.dataset / MADE).write_text(json.dumps({"threads": os.environ["OMP_NUM_THREADS"]}))
    cv2.imwrite(str(job.file(".jpg")), np.full((8, 8, 3), 90, dtype=np.uint8))
    facts = {"folder": job.name, "made": True, "level": 0, "verdict": "train", "reason": "", "frames": 7}
    return [facts | {"report": True, "picture": f"{job.name}.jpg"}]


if __name__ == "__main__":
    main(make)
