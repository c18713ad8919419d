"""`easi3r weights`: list, download and describe network weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Union

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.errors import CheckpointError
from ..network import models, sources

RAFT = "raft"
"""What `easi3r weights fetch` calls the weights of --flow raft."""


@dataclass(frozen=True)
class ListWeights:
    """List the names that --weights and the options for other models understand, their licences, and whether they are
    on this machine."""

    def main(self) -> None:
        """Print the table."""
        table = Table(box=None, pad_edge=False)
        for column in ("name", "here", "licence", "what"):
            table.add_column(column)
        for known in sources.KNOWN.values():
            table.add_row(known.name, "yes" if _is_here(known.name) else "no", known.licence, known.description)
        for model in models.MODELS.values():
            table.add_row(model.name, "yes" if models.is_here(model.name) else "no", model.licence, model.description)
        Console(highlight=False, emoji=False).print(table)


@dataclass(frozen=True)
class FetchWeights:
    """Download weights, so that later runs need no internet connection."""

    name: tyro.conf.Positional[str]
    """A name of `easi3r weights list`, a Hugging Face repository, or raft, the optical flow of --flow raft. On a GPU
    raft is fetched with every other name, because runs there use it."""

    def main(self) -> None:
        """Download the weights, or compare those that are here with the hash of the hub; print the path of the file.

        Raises:
            CheckpointError: the download failed, or the weights do not fit their network.
        """
        from ..motion.flow.raft import fetch_raft
        from ..network.compute import choose_compute
        from ..network.weights import build_backbone
        from .display import RichRunLog

        log, console = RichRunLog(), Console(highlight=False, emoji=False)
        if self.name in models.MODELS:
            console.print(escape(str(models.fetch_known(self.name, log))), soft_wrap=True)
            return
        if self.name != RAFT:
            sources.resolve(self.name, thorough=True, log=log)
            _, info = build_backbone(self.name, log=log)
            console.print(escape(str(info.source.path)), soft_wrap=True)
        if self.name == RAFT or choose_compute("auto", "auto", 0).device.type != "cpu":
            console.print(escape(str(fetch_raft(log))), soft_wrap=True)


@dataclass(frozen=True)
class DescribeWeights:
    """Show licence, origin and size of weights; of those on this machine also architecture and hash."""

    name: tyro.conf.Positional[str]
    """A name of `easi3r weights list`, a .pth or .safetensors file, a folder, or a Hugging Face repository."""

    def main(self) -> None:
        """Print the description.

        Raises:
            CheckpointError: neither a known name nor weights on this machine, or damaged ones.
        """
        if self.name in models.MODELS:
            model, here = models.MODELS[self.name], models.is_here(self.name)
            _print(_known_facts(model) | ({"here": "yes"} if here else {}))
            return
        try:
            source = sources.resolve(self.name, download=False)
        except sources.NotAvailableError:
            if self.name not in sources.KNOWN:
                raise
            _print(_known_facts(sources.KNOWN[self.name]))
            return
        from ..network.weights import describe

        _, info = describe(source)
        lines = info.provenance()
        lines["file"] = info.source.path
        lines["config"] = ", ".join(f"{name} {value}" for name, value in lines["config"].items())
        lines["dynamic_score"] = str(info.score)
        lines["num_parameters"] = f"{info.num_parameters:,}"
        lines["graph"] = info.graph or "no preference"
        lines["flow_weight"] = "no preference" if info.flow_weight is None else f"{info.flow_weight:g}"
        _print(lines)


@dataclass(frozen=True)
class ManageWeights:
    """List, download and describe network weights."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Union[
            Annotated[ListWeights, tyro.conf.subcommand("list")],
            Annotated[FetchWeights, tyro.conf.subcommand("fetch")],
            Annotated[DescribeWeights, tyro.conf.subcommand("info")],
        ]
    ]

    def main(self) -> None:
        """Run the chosen action."""
        self.action.main()


def _is_here(name: str) -> bool:
    try:
        sources.resolve(name, download=False)
    except CheckpointError:
        return False
    return True


def _known_facts(known: sources.KnownWeights | models.KnownModel) -> dict[str, object]:
    """What is known of published weights before they are here."""
    return {
        "name": known.name,
        "what": known.description,
        "licence": known.licence,
        "repository": known.hub_repo or "",
        "here": f"no; they are downloaded on first use, or by: easi3r weights fetch {known.name}",
    }


def _print(lines: Mapping[str, object]) -> None:
    for name, value in lines.items():
        if value is not None:
            text = f"[bold]{name.replace('_', ' '):<15}[/] {escape(str(value))}"
            Console(highlight=False, emoji=False).print(text, soft_wrap=True)
