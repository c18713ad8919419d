"""What to do next: follows the verdict, the best first, in commands that the real parsers read."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tyro

from easi3r_ns.cli.run import ProcessEasi3R
from easi3r_ns.core.config import AlignConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.rig import ViewRig
from easi3r_ns.core.scene import FIXED, Scene
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.report.measures import MeasuredScene, measure
from easi3r_ns.report.next_step import REMEDIES, next_steps, train_command
from easi3r_ns.report.rules import RULES, Level
from easi3r_ns.report.verdict import judge
from tests.report.test_verdict import GOOD
from tests.support.dataset_scene import make_scene

OUT = Path("my out")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = make_scene(tmp_path_factory.mktemp("room"), (160, 120), 12)[0]
    return replace(scene, provenance=provenance(RunConfig(), "dust3r"))


@pytest.fixture(scope="module")
def measured(room: Scene) -> MeasuredScene:
    return measure(room)


def provenance(config: RunConfig, weights: str, available: int = 90) -> dict:
    return {
        "source": "a clip.mp4",
        "source_path": "films/a clip.mp4",
        "num_source_frames": available,
        "weights": {"name": weights},
        "config": asdict(config),
    }


def commands(room: Scene, measured: MeasuredScene, config: RunConfig, weights: str, **found: float) -> list[str]:
    scene = replace(room, provenance=provenance(config, weights))
    measured = replace(measured, measures=replace(GOOD, **found))
    return [step.command for step in next_steps(scene, measured, judge(measured.measures), OUT)]


def options(command: str) -> ProcessEasi3R:
    words = shlex.split(command)
    assert words[:2] == ["ns-process-data", "easi3r"] and "--overwrite" in words
    parsed = tyro.cli(ProcessEasi3R, args=words[2:])
    assert (parsed.data, parsed.output_dir) == (Path("films/a clip.mp4"), OUT)
    return parsed


def test_a_good_dataset_is_trained_on_over_static_pixels(room, measured) -> None:
    assert commands(room, measured, RunConfig(), "dust3r") == ["ns-train splatfacto-easi3r --data 'my out'"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
@pytest.mark.parametrize("weights", ["dust3r", "tiny", "none"])
def test_no_training_is_proposed_after_do_not_train(room, measured, rule, weights) -> None:
    for level, limit in ((Level.CARE, rule.care), (Level.STOP, rule.stop)):
        if limit is None:
            continue
        beyond = limit + (-1e-6 if rule.fine == "at least" else 1e-6)
        found = commands(room, measured, RunConfig(), weights, **{rule.key: beyond})
        assert 0 < len(found) <= 3 and len(set(found)) == len(found)
        assert any(command.startswith("ns-train") for command in found) is (level is Level.CARE)
        for command in found[:-1]:
            options(command)  # what comes before training, or before looking, is a run with other options
        assert found[-1].split()[0] in ("ns-train", "easi3r")


def test_the_best_remedy_comes_first(room, measured) -> None:
    def first(weights: str, config: RunConfig = RunConfig(), **found: float) -> ProcessEasi3R:
        return options(commands(room, measured, config, weights, **found)[0])

    assert first("tiny", flicker=0.5).config.weights == "none"
    assert first("tiny", preview_weights=1, flicker=0.5).config.weights == "none"
    assert first("dust3r", RunConfig(refine=RefineConfig("none")), colour_gain=0.9).refine.refine == "auto"
    assert first("tiny", colour_gain=0.9).config.weights == "none"
    assert first("none", reprojection=3.0).refine.camera_model == "opencv"
    zooms = RunConfig(refine=RefineConfig("none"), align=AlignConfig(shared_focal=False))
    fisheye = first("dust3r", zooms, fov_without_fisheye=120.0)
    assert fisheye.refine == RefineConfig("auto", "opencv-fisheye") and fisheye.align.shared_focal
    few = RunConfig(FrameConfig(num_frames_target=6))
    assert first("none", few, num_frames=6).frames.num_frames_target == 50
    assert first("none", unregistered=0.3).frames.num_frames_target == 90, "no more than the clip has"
    attention = RunConfig(easi3r=Easi3RConfig(motion="attention"))
    assert first("dust3r", attention, coverage=0.6).config.motion == "auto"
    # The worst finding has the first word.
    stopped = commands(room, measured, few, "tiny", colour_gain=2.0, num_frames=6)
    assert options(stopped[0]).config.weights == "none" and options(stopped[1]).frames.num_frames_target == 50


def test_other_options_of_the_run_stay(room, measured) -> None:
    config = RunConfig(
        FrameConfig(start=1.5), Easi3RConfig(weights="tiny", seed=3, masks=Path("a b"), focal_length=1234.5678)
    )
    parsed = options(commands(room, measured, config, "tiny", colour_gain=0.9)[0])
    assert parsed.config.focal_length == 1234.5678, "with all its digits"
    assert parsed.frames.start == 1.5 and parsed.config.seed == 3 and parsed.config.masks == Path("a b")


def test_a_clip_without_more_frames_is_not_asked_for_more(room, measured) -> None:
    scene = replace(room, provenance=provenance(RunConfig(), "none", available=6))
    few = replace(measured, measures=replace(GOOD, num_frames=6))
    (step,) = next_steps(scene, few, judge(few.measures), OUT)
    assert step.command.startswith("ns-train")


def test_views_of_a_sphere_are_not_counted_as_more_frames(room, measured) -> None:
    views = ViewRig(np.tile(np.eye(4), (2, 1, 1)), 100.0, np.repeat([0, 1], 6), np.tile(np.arange(6), 2))
    scene = replace(room, rig=views, provenance=provenance(RunConfig(), "none", available=2 * 6))
    few = replace(measured, measures=replace(GOOD, num_frames=6))
    (step,) = next_steps(scene, few, judge(few.measures), OUT)
    assert step.command.startswith("ns-train"), "all six frames are used"
    more = replace(scene, provenance=provenance(RunConfig(), "none", available=2 * 8))
    assert options(next_steps(more, few, judge(few.measures), OUT)[0].command).frames.num_frames_target == 8


def test_the_part_between_jumps_is_named(room, measured) -> None:
    jumps = np.zeros(12, dtype=bool)
    jumps[9] = True
    cut = replace(measured, measures=replace(GOOD, jumps=0.09), series=replace(measured.series, jumps=jumps))
    steps = next_steps(room, cut, judge(cut.measures), OUT)
    frames = options(steps[0].command).frames
    assert frames.start == 0 and frames.end == pytest.approx(float(measured.series.times[9]))


def test_a_camera_that_stays_is_looked_at(room, measured) -> None:
    still = replace(room, pose_sources=(FIXED,) * 12)
    stays = replace(measured, measures=replace(GOOD, stays=True, num_frames=6))
    (step,) = next_steps(still, stays, judge(stays.measures), OUT)
    assert step.command == "easi3r view 'my out'" and "film again while walking" in step.why


def test_training_commands_are_read_by_nerfstudio(room, tmp_path) -> None:
    """With and without masks, with enough frames for nerfstudio's split and with too few."""
    from nerfstudio.configs.method_configs import all_descriptions, all_methods

    union = tyro.extras.subcommand_type_from_defaults(all_methods, descriptions=all_descriptions)
    plain = replace(room, dynamic=replace(room.dynamic, masks=np.zeros_like(room.dynamic.masks)))
    for scene, method in ((room, "splatfacto-easi3r"), (plain, "splatfacto")):
        for count in (12, 6):
            short = SimpleNamespace(
                dynamic=scene.dynamic, provenance=scene.provenance, __len__=None, frames=range(count)
            )
            command = train_command(_Short(short), tmp_path)
            words = shlex.split(command)
            assert words[0] == "ns-train"
            config = tyro.cli(union, args=words[1:])
            assert config.method_name == method
            parser = config.pipeline.datamanager.dataparser
            assert type(parser).__name__ == "Easi3RDataParserConfig"
            assert parser.eval_mode == ("interval" if count < 10 else "fraction")
            assert tmp_path in (config.data, parser.data)


class _Short:
    """A scene that has fewer frames than its arrays: only its length counts here."""

    def __init__(self, inner: SimpleNamespace) -> None:
        self.dynamic, self.provenance, self._count = inner.dynamic, inner.provenance, len(inner.frames)
        self.between = self.rig = None

    def __len__(self) -> int:
        return self._count


def test_remedies_are_of_rules() -> None:
    assert set(REMEDIES) <= {rule.key for rule in RULES}
