"""`easi3r evaluate`: folder | dataset | set | paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional, Union

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.bounds import check_bounds
from ..core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from ..core.errors import InputError
from .options import OutputFolder

if TYPE_CHECKING:
    from ..evaluate.tables import Result, Section
    from ..pipelines.run import RunConfig


@dataclass(frozen=True)
class EvaluateFolder:
    """Reconstruct clips whose truth is known and score cameras, depth and masks.

    Results are kept with those of earlier commands that had the same --output-dir, and all are shown: other rows, and
    in this row the other sequences, as long as its options stay the same.
    """

    root: tuple[Path, ...]
    """One or more of: a capture (a video, or images in it or in images/, color/ or rgb/; beside them, each optional,
    gt_cameras.json, masks/ with what moves above 0, depth/ in millimetres), a folder of captures, a DAVIS folder."""
    output_dir: OutputFolder = Path("evaluation")
    """Folder for the datasets (ROW/SEQUENCE), results.json and results.md."""
    row: Optional[str] = None
    """Name of this row of results; default: made of the weights and --refine."""
    baseline: Optional[Literal["colmap", "ns-process-data"]] = None
    """What you would run instead. colmap: plain COLMAP on the whole picture. ns-process-data: nerfstudio's own
    processor on all images of the clip; calls the program colmap."""
    peers: Optional[Path] = None
    """Results of other methods to score: METHOD/SEQUENCE/ is what that program wrote (as for `easi3r import`)."""
    only_peers: tyro.conf.FlagCreatePairsOff[bool] = False
    """Reconstruct nothing."""
    sequences: tuple[str, ...] = ()
    """Names of the captures to use; default: all."""
    fixed_camera: tuple[str, ...] = ()
    """Names of captures that were filmed from a tripod: their drift is reported."""
    again: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make datasets anew that are finished and whose options have not changed."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(default_factory=FrameConfig)
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)

    def main(self) -> None:
        """Run, write and print the tables; exits with 1 when no capture could be scored."""
        from ..evaluate.datasets import find_captures
        from ..evaluate.peers import score_peers
        from ..evaluate.runs import with_chosen_weights, write_tables
        from ..evaluate.trajectory import load_evo
        from .display import RichRunLog

        config = self.run_config()
        captures = find_captures(self.root, self.sequences, self.fixed_camera)
        if any(capture.T_world_cam for capture in captures):
            load_evo()  # before hours of work, not after
        log = RichRunLog()
        results = [] if self.peers is None else score_peers(self.peers, captures, self.output_dir, log)
        if (reconstruct := self.reconstruct()) is not None:
            config = with_chosen_weights(captures, config, log)
            row = self.row_name(config.easi3r.weights)
            results += reconstruct(captures, self.output_dir, row, config, again=self.again, log=log)
        print_sections(write_tables(self.output_dir), Console(highlight=False, emoji=False))
        if all(result.error is not None for result in results):
            raise SystemExit(1)

    def reconstruct(self) -> Callable[..., list[Result]] | None:
        """What makes the results of the row; None: --only-peers. Raises InputError for --only-peers without --peers."""
        from ..evaluate.baselines import evaluate_ns_process_data
        from ..evaluate.runs import evaluate_captures

        if self.only_peers:
            if self.peers is None:
                raise InputError("--only-peers scores what --peers names: give that folder")
            return None
        return evaluate_ns_process_data if self.baseline == "ns-process-data" else evaluate_captures

    def run_config(self) -> RunConfig:
        """The options of every run. Raises InputError when --baseline contradicts them."""
        from ..pipelines.run import RunConfig

        easi3r = self.config
        if self.baseline == "ns-process-data":
            if easi3r != Easi3RConfig():
                raise InputError("--baseline ns-process-data takes none of our options: leave them out")
            easi3r = replace(easi3r, weights="none")
        if self.baseline == "colmap":
            if easi3r.weights not in (Easi3RConfig().weights, "none") or easi3r.masks is not None:
                raise InputError("--baseline colmap uses neither weights nor masks: leave out --weights and --masks")
            easi3r = replace(easi3r, weights="none", no_masks=True, depth="none")
        dataset = DatasetConfig(num_downscales=0)
        return RunConfig(self.frames, easi3r, self.align, dataset, refine=self.refine)

    def row_name(self, weights: str | None = None) -> str:
        """The name of the row: as given, or made of the options; ``weights`` is what auto means. Raises InputError for
        one that is no file name."""
        refined = {"auto": "", "colmap": "+colmap", "none": "-no-refine"}[self.refine.refine]
        masks = "-no-masks" if self.config.no_masks else ""
        name = self.row or self.baseline or f"{Path(weights or self.config.weights).stem}{masks}{refined}"
        if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|') or name == "results":
            raise InputError(f"--row {name}: give a name that can be the name of a file")
        return name


@dataclass(frozen=True)
class EvaluateDataset:
    """Score one existing dataset against the truth of its clip."""

    dataset: Path
    """A dataset that easi3r wrote (the folder, or its transforms.json)."""
    truth: Path
    """The capture that it was made from, with its truth: as --root of `easi3r evaluate folder`."""
    sequence: Optional[str] = None
    """Name of the capture where --truth holds several."""
    fixed_camera: tyro.conf.FlagCreatePairsOff[bool] = False
    """The clip was filmed from a tripod: its drift is reported."""

    def main(self) -> None:
        """Print the tables."""
        from ..evaluate.datasets import find_captures
        from ..evaluate.runs import score_dataset
        from ..evaluate.tables import sections

        captures = find_captures([self.truth], [self.sequence] if self.sequence else [])
        if len(captures) != 1:
            names = ", ".join(capture.name for capture in captures)
            raise InputError(f"--truth {self.truth} holds several captures ({names}): name one with --sequence")
        capture = replace(captures[0], fixed_camera=captures[0].fixed_camera or self.fixed_camera)
        result = score_dataset(self.dataset, capture, row=self.dataset.resolve().name)
        print_sections(sections([result]), Console(highlight=False, emoji=False))


@dataclass(frozen=True)
class EvaluateSet:
    """Reconstruct the sequences of a published set and put the scores beside the published ones.

    The word `set` may be left out. Every frame that the protocol names is used: --num-frames-target is 0
    here. For the figures of the paper, give --weights dust3r or monst3r, --motion attention and --refine none.
    """

    name: tyro.conf.Positional[str]
    """davis-16, davis-17, davis-all, dycheck, adt, tum-dynamics, tum-dynamics-90, sintel, bonn or kitti."""
    root: Path
    """Folder of the set, as its authors distribute it."""
    output_dir: OutputFolder = Path("evaluation")
    """Folder for results: NAME/results.md, .json, .tex, .csv, and datasets in NAME/ROW."""
    row: Optional[str] = None
    """Name of this row of results; default: made of the weights and --refine."""
    baseline: Optional[Literal["colmap", "ns-process-data"]] = None
    """What you would run instead."""
    peers: Optional[Path] = None
    """Results of other methods: cut3r/sintel/alley_2/ and the like."""
    only_peers: tyro.conf.FlagCreatePairsOff[bool] = False
    """Reconstruct nothing."""
    sequences: tuple[str, ...] = ()
    """Names of the sequences to use; default: all of the protocol."""
    smoke: tyro.conf.FlagCreatePairsOff[bool] = False
    """The first three sequences only."""
    again: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make finished datasets anew, too."""
    frames: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[FrameConfig]] = field(
        default_factory=lambda: FrameConfig(num_frames_target=0)
    )
    config: tyro.conf.FlagCreatePairsOff[tyro.conf.OmitArgPrefixes[Easi3RConfig]] = field(default_factory=Easi3RConfig)
    refine: tyro.conf.OmitArgPrefixes[RefineConfig] = field(default_factory=RefineConfig)
    align: AlignConfig = field(default_factory=AlignConfig)

    def main(self) -> None:
        """Run, write and print the tables; exits with 1 when no sequence could be scored."""
        from ..evaluate.sets import evaluate_set
        from .display import RichRunLog

        options = (self.frames, self.config, self.refine, self.align)
        own = (self.output_dir, self.row, self.baseline, self.peers, self.only_peers, self.sequences, (), self.again)
        like = EvaluateFolder((self.root,), *own, *options)
        log = RichRunLog()
        tables, scored = evaluate_set(
            *(self.name, self.root, self.output_dir, like.run_config(), like.row_name),
            sequences=self.sequences,
            smoke=self.smoke,
            again=self.again,
            log=log,
            peers=self.peers,
            reconstruct=like.reconstruct(),
        )
        print_sections(tables, Console(highlight=False, emoji=False))
        if not scored:
            raise SystemExit(1)


@dataclass(frozen=True)
class EvaluatePaper:
    """Fill the tables of arXiv:2503.24391: every published number, ours beside it, and what made ours.

    Takes hours to days with all sets. The same command continues where it was interrupted. Weights or sets that are not
    there become "not run (weights)" and "not run (data)" in their cells. All frames of each protocol are used, and no
    bundle adjustment. Lists have commas and no spaces.
    """

    root: Path
    """Folder that holds the sets, each as its authors distribute it: DAVIS, the scenes of DyCheck, the clips of ADT,
    the sequences of TUM-dynamics; each in a folder of its own, or all side by side."""
    output_dir: OutputFolder = Path("evaluation/paper")
    """Folder for the results: SET/ROW/SEQUENCE are datasets; paper.md, .tex, .csv and .json hold every cell."""
    weights: str = "dust3r,monst3r"
    """Weights to run, as for `easi3r run`; only those two have published numbers."""
    motion: str = "attention,auto"
    """attention is the method of the paper, auto our default."""
    refine_masks: str = "none,sam2"
    """Models for masks to the pixel, for DAVIS: see `easi3r run`."""
    sets: str = "davis-16,davis-17,davis-all,dycheck,adt,tum-dynamics"
    """Sets to run."""
    peers: Optional[Path] = None
    """Folder with results of other methods, METHOD/SET/SEQUENCE: see `easi3r evaluate set`. easi3r-dust3r,
    easi3r-monst3r, dust3r, monst3r, das3r and cut3r, and das3r-sam2 for masks that SAM2 refined, fill cells of the
    paper."""
    smoke: tyro.conf.FlagCreatePairsOff[bool] = False
    """The first three sequences of each set only."""
    again: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make datasets anew that are finished and whose options have not changed."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the network's transformer blocks: see `easi3r run`."""
    max_memory: Optional[float] = None
    """Most memory of a run in GiB: see `easi3r run`."""

    def __post_init__(self) -> None:
        check_bounds("--max-memory", self.max_memory, 0, 1e6, open_low=True)

    def main(self) -> None:
        """Run, write and print the tables; exits with 1 when there is no number of ours."""
        from ..evaluate.paper import Wish, evaluate_paper
        from ..pipelines.run import RunConfig
        from .display import RichRunLog

        lists = {name: tuple(getattr(self, name).split(",")) for name in ("weights", "motion", "refine_masks", "sets")}
        easi3r = Easi3RConfig(device=self.device, dtype=self.dtype, max_memory=self.max_memory)
        base = RunConfig(easi3r=easi3r, dataset=DatasetConfig(num_downscales=0))
        tables, filled = evaluate_paper(
            *(self.root, self.output_dir, Wish(**lists), base),
            smoke=self.smoke,
            again=self.again,
            log=RichRunLog(),
            peers=self.peers,
        )
        print_sections(tables, Console(highlight=False, emoji=False))
        if not filled:
            raise SystemExit(1)


@dataclass(frozen=True)
class Evaluate:
    """Score reconstructions against known cameras, depth and motion masks (extra eval)."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Union[
            Annotated[EvaluateFolder, tyro.conf.subcommand("folder")],
            Annotated[EvaluateDataset, tyro.conf.subcommand("dataset")],
            Annotated[EvaluateSet, tyro.conf.subcommand("set")],
            Annotated[EvaluatePaper, tyro.conf.subcommand("paper")],
        ]
    ]

    def main(self) -> None:
        """Do it."""
        self.action.main()


def print_sections(tables: list[Section], console: Console) -> None:
    """Every section as a table."""
    for section in tables:
        table = Table(title=section.title, title_justify="left", box=None, pad_edge=False, caption=section.note)
        table.caption_justify = "left"
        for position, title in enumerate(section.header):
            table.add_column(title, justify="left" if position < 2 else "right", overflow="fold")
        for line in section.lines:
            table.add_row(*map(escape, line))
        console.print(table)
        console.print()
