"""Numbers that make no sense: every numeric option of every command refuses them in one line, or a run is possible."""

from __future__ import annotations

import dataclasses
import importlib
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from easi3r_ns.cli import main as cli
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.pairs import check_strategy, make_pairs
from easi3r_ns.importers.folder import ImportOptions
from easi3r_ns.training.config import TrainConfig
from easi3r_ns.training.measure.run import MeasureConfig

HUGE = 10**400
"""More than a float holds."""
ABSURD: dict[type, list[Any]] = {
    int: [-1, -HUGE, 10**30, HUGE],
    float: [-1.0, 1e300, -1e300, math.inf, -math.inf, math.nan, HUGE],
}
REQUIRED = {"data": Path("x"), "output_dir": Path("x"), "path": Path("x"), "weights": "x", "root": (Path("x"),)}
REQUIRED |= {"clips": (Path("x"),), "dataset": Path("x"), "truth": Path("x")}


def alternatives(hint: Any) -> list[Any]:
    """The types of a hint, without Annotated and Union around them."""
    if typing.get_origin(hint) is typing.Annotated:
        return alternatives(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in alternatives(part)]
    return [hint]


def option_classes(root: Any, found: dict[type, None]) -> dict[type, None]:
    """The dataclasses of options that a command line is made of."""
    for kind in alternatives(root):
        if dataclasses.is_dataclass(kind) and kind not in found:
            found[kind] = None
            for hint in typing.get_type_hints(kind, include_extras=True).values():
                option_classes(hint, found)
    return found


def numeric_fields() -> Iterator[tuple[type, str, type]]:
    found: dict[type, None] = {}
    for root in (cli.Commands, TrainConfig, MeasureConfig, ImportOptions):
        option_classes(root, found)
    for kind in found:
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            for number in (int, float):
                parts = [part for option in alternatives(hint) for part in (option, *typing.get_args(option))]
                if number in parts:
                    yield kind, name, number


FIELDS = list(numeric_fields())


def made(kind: type, name: str, value: Any) -> Any:
    needed = {
        field.name: REQUIRED.get(field.name)
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for hint in alternatives(typing.get_type_hints(kind, include_extras=True)[name]):
        if typing.get_origin(hint) is tuple:  # of several numbers: all are the value
            value = (value,) * len([part for part in typing.get_args(hint) if part is not Ellipsis])
    return kind(**needed | {name: value})


def test_the_walk_reaches_the_options() -> None:
    names = {name for _, name, _ in FIELDS}
    for name in ("batch_size", "flow_weight", "learning_rate", "max_points", "voxel_size", "port", "arc", "enc_dim"):
        assert name in names
    assert len(FIELDS) > 60


@pytest.mark.parametrize(("kind", "name", "number"), FIELDS, ids=[f"{k.__name__}.{n}" for k, n, _ in FIELDS])
def test_absurd_numbers_are_refused_in_one_line(kind: type, name: str, number: type) -> None:
    for value in ABSURD[number]:
        with pytest.raises(InputError) as caught:
            made(kind, name, value)
        message = str(caught.value)
        assert message.startswith("--") and name.replace("_", "-") in message
        assert len(message.splitlines()) == 1 and len(message) < 200


@pytest.mark.parametrize(("kind", "name", "number"), FIELDS, ids=[f"{k.__name__}.{n}" for k, n, _ in FIELDS])
def test_zero_is_refused_or_one_of_those_that_a_run_can_do(kind: type, name: str, number: type) -> None:
    try:
        made(kind, name, number(0))
    except InputError as error:
        assert name.replace("_", "-") in str(error)
        return
    assert name in ZERO_IS_POSSIBLE, f"{kind.__name__}.{name}: run it with 0, then name it here"


ZERO_IS_POSSIBLE = {
    "retries",
    *("num_frames_target", "crop_factor", "start", "iterations", "flow_weight", "flow_start", "smooth_weight"),
    *("smooth_translation_weight", "depth_weight", "max_pixels", "min_confidence", "seed", "batch_size", "window"),
    *("num_downscales", "mask_growth", "min_component", "min_views", "trail", "port", "arc"),
    *("steps", "low_share", "fresh_scenes", "warmup_steps", "weight_decay", "ema_decay"),
    *("confidence_alpha", "match_weight", "attention_weight", "checkpoint_minutes", "minutes", "learning_rate"),
}


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--data", "x", "--output-dir", "y", "--batch-size", "1000000000000000000"],
        ["run", "--data", "x", "--output-dir", "y", "--align.flow-weight", "1e300"],
        ["run", "--data", "x", "--output-dir", "y", "--align.learning-rate", "1e300"],
        ["run", "--data", "x", "--output-dir", "y", "--num-frames-target", "9" * 400],
        ["plan", "x", "--max-memory", "nan"],
        ["view", "x", "--port", "-1"],
        ["edit", "x", "--port", "65536"],
        ["view", "x", "--orbit.seconds", "inf"],
        ["export", "x", "--mesh.voxel-size", "1e300"],
        ["import", "x", "--output-dir", "y", "--fps", "0"],
        ["evaluate", "folder", "--root", "x", "--output-dir", "y", "--window", "-1"],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_the_command_line_says_it_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == InputError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words[-2]} ")


@pytest.mark.parametrize("module", ["easi3r_ns.training.__main__", "easi3r_ns.training.measure.__main__"])
def test_training_and_its_measurement_say_it_in_one_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output-dir", "x"] if module.endswith("training.__main__") else ["x"]
    monkeypatch.setattr("sys.argv", ["it", *words, "--threads", "-1"])
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(module).main()
    assert caught.value.code == InputError.exit_code
    assert capsys.readouterr().err == "error: --threads -1: give a number at least 1\n"


@pytest.mark.parametrize(
    "strategy",
    [
        "swin-99999999999999999999",
        "logwin-1000001",
        "swinstride-9999999999999999999-noncyclic",
        "oneref-99999999999999999999",
        f"swin-{'9' * 5000}",
    ],
    ids=lambda strategy: strategy[:20],
)
def test_numbers_inside_the_name_of_a_graph(strategy: str) -> None:
    with pytest.raises(InputError, match="^--graph .*at most 1000000") as caught:
        check_strategy(strategy)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", ["swin", "swinstride", "swin2stride", "swinskip_start", "logwin"])
@pytest.mark.parametrize("ending", ["", "-noncyclic"])
def test_the_largest_window_gives_the_pairs_of_one_that_is_large_enough(kind: str, ending: str) -> None:
    largest, enough = (make_pairs(f"{kind}-{window}{ending}", 7) for window in (1_000_000, 14))
    assert largest.edges.tolist() == enough.edges.tolist()


@pytest.mark.parametrize("strategy", ["complete", "swin-1000000"])
def test_more_pairs_than_a_machine_holds_are_refused(strategy: str) -> None:
    with pytest.raises(InputError, match="100000 frames would make .* pairs"):
        make_pairs(strategy, 100_000)
