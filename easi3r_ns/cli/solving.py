"""Solving a dataset again from the page of `easi3r edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from ..core.scene import Scene
    from ..edit.jobs import JobLog
    from ..edit.remake import Figure, Solved


class FolderRemake:
    """A dataset in a folder, made again beside itself (:mod:`..pipelines.again`)."""

    def __init__(self, dataset: Path, data: Optional[Path] = None) -> None:
        """``data``: the clip, where it lies elsewhere now."""
        self._dataset, self._data = dataset, data

    def waiting(self) -> Solved | None:
        """See :class:`~easi3r_ns.edit.remake.Remake`."""
        from ..pipelines.again import waiting

        folder = waiting(self._dataset)
        return None if folder is None else compared(self._dataset, folder)

    def solve(self, log: JobLog) -> Solved:
        """See :class:`~easi3r_ns.edit.remake.Remake`."""
        from ..pipelines.again import solve_again

        def progress(words: str, done: int, total: int, unit: str) -> None:
            log.show(words=words, done=done, total=total, unit=unit)

        folder = solve_again(self._dataset, progress=progress, cancel=log.stopped.is_set, data=self._data)
        log.show(words="compare old and new", done=0, total=0, unit="")
        return compared(self._dataset, folder)

    def accept(self) -> Scene:
        """See :class:`~easi3r_ns.edit.remake.Remake`."""
        from ..dataset.scene_folder import find_scene
        from ..pipelines.again import accept

        accept(self._dataset)
        return find_scene(self._dataset)

    def go_back(self) -> None:
        """See :class:`~easi3r_ns.edit.remake.Remake`."""
        from ..pipelines.again import go_back

        go_back(self._dataset)


def why_not_again(scene: Scene, dataset: Path) -> str:
    """Why a dataset cannot be solved again; empty: it can."""
    from ..core.errors import InputError
    from ..pipelines.by_hand import from_elsewhere
    from ..pipelines.kept import kept_run
    from ..pipelines.run import WORKSPACE

    if scene.clip is not None:
        return "solving again takes the corrections of one clip; this dataset is of several"
    try:
        other = from_elsewhere(kept_run(dataset / WORKSPACE).config, dataset)
    except InputError as error:
        return str(error)
    return "" if other is None else f"the dataset was made with the corrections in {other}: copy them beside it"


def compared(old: Path, new: Path) -> Solved:
    """Two datasets of one clip, for the page."""
    from ..dataset.scene_folder import find_scene
    from ..edit.remake import Figure, Solved
    from ..pipelines.side_by_side import compare_cameras

    before, after = find_scene(old), find_scene(new)
    change = compare_cameras(before, after)
    figures = [
        Figure("Frames", str(len(before)), str(len(after))),
        *_judged(before, after),
    ]
    notes = [str(warning) for warning in after.provenance.get("warnings") or ()]
    return Solved(change.old, change.new, tuple(figures), tuple(notes))


def _judged(before: Scene, after: Scene) -> list[Figure]:
    """The verdict, and the measures that it depends on most, of both."""
    from ..edit.remake import Figure
    from ..report.measures import measure
    from ..report.verdict import judge

    old, new = (judge(measure(scene).measures) for scene in (before, after))
    figures = [Figure("Verdict", old.level.words, new.level.words)]
    shown = {finding.rule.key: finding for finding in old.decisive}
    for finding in new.decisive:
        if finding.rule.key in shown:
            figures.append(Figure(finding.rule.title, shown[finding.rule.key].shown, finding.shown))
    return figures
