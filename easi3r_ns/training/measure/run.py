"""All measurements of a checkpoint, part by part, and where they go."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from ...core.bounds import check_bounds, shown_number
from ...core.config import MOST_FRAMES
from ...core.errors import InputError
from ...core.score import ScoreFormula
from ...network.backbone import LoadedBackbone
from ...network.weights import load_backbone
from ...storage.files import make_folder, write_bytes, write_json
from ..card import read_card, write_card
from ..curve import draw
from ..scenes import Clip
from . import choose, figure, motion, paths, tables
from .pairs import measure_pairs
from .pairs import summarise as summarise_pairs

logger = logging.getLogger(__name__)

Part = Literal["wide", "clip", "choose", "score", "paths", "figure"]
PARTS: tuple[Part, ...] = ("wide", "clip", "choose", "score", "paths", "figure")
FIGURE_CLIPS = 4
LONG_FRAMES = 24
Progress = Callable[[str, int], Callable[[int], None]]
"""(name, total) -> advance(n)."""


@dataclass(frozen=True)
class MeasureConfig:
    """Measure a checkpoint on scenes, clips and textures that were not trained on (about 25 CPU minutes)."""

    weights: tyro.conf.Positional[str]
    """Name, folder or file of the weights."""
    parts: tuple[Part, ...] = PARTS
    """What to measure: wide and clip (static pairs), choose (formula and graph of the card), score (what moves), paths
    (clips from end to end), figure."""
    quick: bool = False
    """A few scenes of each, to see that everything runs; the numbers mean nothing."""
    pairs: int = 1000
    """Static pairs in each of the two sets."""
    clips: int = 24
    """Dynamic clips to report on (each is also rendered frozen)."""
    path_clips: int = 20
    """Dynamic clips to reconstruct from end to end, in five ways each."""
    selection_clips: int = 24
    """Clips on which formula and graph are chosen; end to end on the first eight scenes, half of them long."""
    frames: int = 10
    """Frames per dynamic clip of two seconds; every third of the clips for choosing has 24, as long clips have many."""
    device: str = "cpu"
    """Where to compute."""
    threads: int = 1
    """CPU threads."""
    update_card: bool = False
    """Write everything into the card beside the weights, and the tables and pictures into --results."""
    results: Path = Path("examples/results/tiny")
    """Folder of the tables and pictures (with --update-card)."""
    training_run: Path | None = None
    """Folder of the training run, for its learning curve (with --update-card)."""

    def __post_init__(self) -> None:
        for name in ("pairs", "clips", "path_clips", "selection_clips"):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            if value < 1:
                raise InputError(f"{flag} {shown_number(value)}: give at least 1; --parts leaves a part out")
            check_bounds(flag, value, 1, MOST_FRAMES)
        check_bounds("--frames", self.frames, 4, 10_000)
        check_bounds("--threads", self.threads, 1, 1024)

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of scenes, after ``quick``."""
        if self.quick:
            counts = {"pairs": 6, "clips": 1, "path_clips": 1, "selection_clips": 2, "selection_paths": 1}
            return counts | {"frames": 4, "long_frames": 5, "figure_clips": 1}
        names = ("pairs", "clips", "path_clips", "selection_clips", "frames")
        return {name: getattr(self, name) for name in names} | {
            "selection_paths": min(8, self.selection_clips),
            "long_frames": LONG_FRAMES,
            "figure_clips": FIGURE_CLIPS,
        }


class Measurement:
    """One run over the parts; ``backbone`` carries the current formula and graph."""

    def __init__(self, config: MeasureConfig, progress: Progress) -> None:
        self.config, self.sizes, self.progress = config, config.sizes, progress
        model, info = load_backbone(config.weights, device=config.device)
        self.folder = info.source.card_path.parent
        self.backbone = LoadedBackbone(model, replace(info, graph=info.graph or "swin-3-noncyclic"))
        self.observed: list[list[motion.Observation]] = []

    @property
    def formula(self) -> ScoreFormula:
        """The current formula."""
        return self.backbone.info.score

    @property
    def graph(self) -> str:
        """The current graph."""
        return str(self.backbone.info.graph)

    @property
    def preferences(self) -> dict[str, Any]:
        """What the card asks a run for."""
        info = self.backbone.info
        return {"dynamic_score": asdict(self.formula), "graph": info.graph, "flow_weight": info.flow_weight}

    def run(self) -> Iterator[dict[str, Any]]:
        """JSON-serialisable results, part by part."""
        steps = {
            "wide": lambda: {"wide": self.pairs("wide")},
            "clip": lambda: {"clip": self.pairs("clip")},
            "choose": lambda: {"choice": self.choose()},  # what follows uses what was chosen
            "score": lambda: {"score": self.score()},
            "paths": lambda: {"paths": self.paths()},
        }
        yield from (step() for name, step in steps.items() if name in self.config.parts)

    def pairs(self, kind: Literal["wide", "clip"]) -> dict[str, Any]:
        """Static pairs of one set."""
        count = self.sizes["pairs"]
        advance = self.progress(f"static pairs: {kind}", count)
        rows = measure_pairs(self.backbone.model, kind, count, self.config.device, advance)
        return summarise_pairs(rows, kind)

    def choose(self) -> dict[str, Any]:
        """Choose formula and graph; the later parts use them."""
        count = self.sizes["selection_clips"]
        short, long = self.sizes["frames"], self.sizes["long_frames"]
        lengths = (short, long) if self.config.quick else (short, short, long)
        groups = self._observe("selection", count, choose.GRAPHS, "selection clips", lengths=lengths)
        patch = self.backbone.model.config.patch_size
        choices = {g: choose.choose_formula(*groups[g], patch) for g in choose.GRAPHS}
        seeds = self._seeds("selection", self.sizes["selection_paths"])
        clips = [motion.make_clip(s, "selection", n) for s, n in zip(seeds, itertools.cycle(sorted(set(lengths))))]
        advance = self.progress("selection paths", len(choose.GRAPHS) + len(choose.FLOW_WEIGHTS))

        def path_error(graph: str, flow_weight: float) -> float:
            advance(1)
            backbone = self._with(choices[graph].formula, graph, flow_weight)
            return paths.mean_path_error(backbone, clips, graph, self.config.device)

        best = max(choices, key=lambda graph: choices[graph].jm)
        flow_weight, flow_record = choose.choose_flow_weight(lambda weight: path_error(best, weight))
        graph, record = choose.choose_graph(choices, lambda graph: path_error(graph, flow_weight))
        self.backbone = self._with(choices[graph].formula, graph, flow_weight)
        sizes = {"clips": count, "lengths": sorted(set(lengths)), "path_clips": len(clips)}
        return sizes | {"graph": graph, "graphs": record, "flow_weight": flow_weight, "flow_weights": flow_record}

    def score(self) -> dict[str, Any]:
        """The score on held-out clips and their twins."""
        groups = self._observe("held_out", self.sizes["clips"], (self.graph,), "held-out clips", residual=True)
        self.observed = list(groups[self.graph])
        clips, twins = self.observed
        patch = self.backbone.model.config.patch_size
        prevalence = sum(float(seen.truth.mean()) for seen in clips) / len(clips)
        sizes = {"clips": len(clips), "frames": self.sizes["frames"], "prevalence": round(prevalence, 4)}
        return sizes | {"rows": motion.score_table(clips, twins, self.formula, patch)}

    def paths(self) -> dict[str, Any]:
        """Held-out clips from end to end, in every variant."""
        seeds = self._seeds("held_out", self.sizes["path_clips"])
        advance = self.progress("clips from end to end", len(seeds) * len(paths.VARIANTS))
        rows: dict[str, list[paths.PathRow | None]] = {name: [] for name in paths.VARIANTS}
        clips = []
        for seed in seeds:
            clips.append(self._clip(seed, "held_out"))
            for variant, done in rows.items():
                done.append(paths.try_run(self.backbone, clips[-1], variant, self.config.device))
                advance(1)
        sizes = {"clips": len(clips), "frames": self.sizes["frames"], "graph": self.graph}
        return sizes | {"pixels": paths.ALIGN.max_pixels} | paths.summarise(rows, clips)

    def draw(self, path: Path) -> None:
        """The picture of score maps."""
        seeds = self._seeds("held_out", self.sizes["figure_clips"])
        groups = self._observe("held_out", len(seeds), (self.graph,), "picture")[self.graph]
        images = [self._clip(seed, "held_out").images for seed in seeds]
        figure.draw_scores(path, images, *groups, self.formula, self.backbone.model.config.patch_size)

    def _with(self, formula: ScoreFormula, graph: str, flow_weight: float) -> LoadedBackbone:
        info = replace(self.backbone.info, score=formula, graph=graph, flow_weight=flow_weight)
        return replace(self.backbone, info=info)

    def _seeds(self, family: str, count: int) -> list[int]:
        return motion.clip_seeds(family, count, self.sizes["frames"])

    def _clip(self, seed: int, family: str) -> Clip:
        return motion.make_clip(seed, family, self.sizes["frames"])

    def _observe(
        self,
        family: str,
        count: int,
        graphs: tuple[str, ...],
        title: str,
        residual: bool = False,
        lengths: tuple[int, ...] = (),
    ) -> dict[str, tuple[list[motion.Observation], list[motion.Observation]]]:
        """Per graph, observations of the clips and of their frozen twins; the lengths (default: one) come in turn."""
        lengths = lengths or (self.sizes["frames"],)
        seen: dict[str, tuple[list, list]] = {graph: ([], []) for graph in graphs}
        advance = self.progress(title, 2 * count)
        for seed, frames in zip(self._seeds(family, count), itertools.cycle(lengths)):
            for frozen in (False, True):
                clip = motion.make_clip(seed, family, frames, frozen)
                maps, tokens = motion.watch(self.backbone.model, clip, graphs, self.config.device, residual)
                for graph in graphs:
                    seen[graph][frozen].append(motion.observe(maps, tokens, clip, graph))
                advance(1)
        return seen


def measure(config: MeasureConfig, progress: Progress = lambda name, total: lambda n: None) -> dict[str, Any]:
    """Measure, and write the card (after every part), the tables and the pictures where the options say so."""
    measurement = Measurement(config, progress)
    result: dict[str, Any] = {}
    for part in measurement.run():
        result |= part
        logger.info("%s\n", "\n".join(tables.all_lines(part)))
        if config.update_card:
            update_card(measurement.folder, part, measurement.preferences)
    if config.update_card:
        card = read_card(measurement.folder)
        make_folder(config.results)
        if "figure" in config.parts:
            measurement.draw(config.results / "scores.jpg")
        if config.training_run:
            draw(config.training_run, config.results / "learning_curve.png")
        lines = [f"# {card['name']}: what was measured", "", *_how(config), *tables.all_lines(card["measured"])]
        write_bytes(config.results / "README.md", "\n".join([*lines, ""]).encode())
        write_json(config.results / "measured.json", card["measured"])
    return result


def _how(config: MeasureConfig) -> list[str]:
    pictures = {"scores.jpg": "Scores, truth and frozen twins", "learning_curve.png": "Learning curve"}
    there = [f"![{title}]({name})" for name, title in pictures.items() if (config.results / name).exists()]
    return ["    python -m easi3r_ns.training.measure WEIGHTS --update-card", "", *there, ""]


def update_card(folder: Path, result: dict[str, Any], preferences: dict[str, Any]) -> dict[str, Any]:
    """Put formula, graph, flow weight and measurements into the card of a folder of weights.

    Parts that were not measured now stay, unless they were measured with other preferences.
    """
    card = read_card(folder)
    measured = {name: part for name, part in card.get("measured", {}).items() if name in tables.SECTIONS}
    if preferences != {name: card.get(name) for name in preferences}:
        measured = {name: part for name, part in measured.items() if name not in ("score", "paths")}
    card |= preferences | {"measured": measured | result}
    write_card(folder, card)
    return card
