"""``--mask-scope now`` against ``ever``: J of masks from optical flow alone, and what is marked beside the truth.

``python -m tests.bench.bench_scope DATA`` prints a markdown table. DATA is the folder of ``bench_masks``; what is not
there is left out. ``stop-and-go N`` are rendered clips whose mover stands for the first and the last third: the truth
is where it is seen. Of ``hololens`` and ``hololens2``, in which nothing moves, the marked share alone is given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.evaluate.masks import jaccard
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.scope import at_all_times
from tests.bench.bench_masks import SEQUENCES, STATIC, Source, masks_of, read_source
from tests.support.stop_and_go import stop_and_go

SEEDS = (4, 9, 14, 15)
"""Of stop-and-go clips whose mover covers 5 to 30 % of the picture."""


def sources(data: Path) -> Iterator[Source]:
    """One after another, because all together are large."""
    images, masks = (data / "davis" / part / "480p" for part in ("JPEGImages", "Annotations"))
    yield from (read_source(name, images / name, masks / name) for name in SEQUENCES if (images / name).is_dir())
    for seed in SEEDS:
        clip = stop_and_go(seed)
        yield Source(f"stop-and-go {seed}", clip.images, clip.moving)
    for name in ("hololens", "hololens2"):
        if (data / name / STATIC[name]).is_dir():
            yield read_source(name, data / name / STATIC[name])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    cv2.setNumThreads(1)
    print(
        "| | JM, now | JM, ever | beside the truth, now | ever | CPU s a frame |\n| --- | --- | --- | --- | --- | --- |"
    )
    for source in sources(data):
        now = masks_of(source, 1, within=True)[1]
        begin = time.process_time()
        ever = at_all_times(source.images, now, [range(len(now))], DISFlow(), RunLog())
        seconds = (time.process_time() - begin) / len(now)
        truth = np.zeros_like(now) if source.moving is None else source.moving
        scores = ["-" if source.moving is None else f"{jaccard(found, truth).mean():.3f}" for found in (now, ever)]
        beside = [f"{100 * (found & ~truth).mean():.2f} %" for found in (now, ever)]
        print(f"| {source.name} | {' | '.join(scores)} | {' | '.join(beside)} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
