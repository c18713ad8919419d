"""What --weights auto means: the network where it is here or can be had and is fast enough, else none."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from easi3r_ns.core.budget import GIB, UNBOUNDED, Budget
from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, CheckpointError, InputError, MemoryLimitError
from easi3r_ns.network import hub, sources
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.hub import Repository
from easi3r_ns.pipelines import choice as module
from easi3r_ns.pipelines import run
from easi3r_ns.pipelines.choice import LONGEST_SECONDS, choose_weights, judge_weights
from easi3r_ns.pipelines.geometric import GeometricPipeline
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.plan.forecast import Forecast, Job
from easi3r_ns.plan.stages import StageForecast
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_network import write_images
from tests.pipelines.test_seams import Oracle
from tests.support.helpers import Lines
from tests.support.pretend_gpu import install_gpu

CONFIG = RunConfig(FrameConfig(num_frames_target=0), dataset=DatasetConfig(num_downscales=0))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, 4, 96, 128)


@pytest.fixture
def data(clip: Clip, tmp_path: Path) -> Path:
    return write_images(clip, tmp_path / "clip")


class Machine:
    """A machine as the choice sees it: forecasts, weights and hub are made up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.seconds, self.memory_gib, self.gpu_gib, self.device = 60.0, 2.0, 0.0, "cpu"
        self.budget: Budget = UNBOUNDED
        self.error: Exception | None = None
        self.hub: str | None = "the hub cannot be reached (test)"
        self.asked, self.planned = 0, 0
        self.downloads: list[str] = []
        self.folder = folder / "dust3r"
        monkeypatch.setenv("EASI3R_NS_WEIGHTS", str(folder))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self.download)
        monkeypatch.setattr(Repository, "look_up", lambda repository, file: SimpleNamespace(etag=None))
        monkeypatch.setattr(module, "plan_run", self.plan)
        monkeypatch.setattr(module, "reason_against_download", self.ask)

    def plan(self, data: Path, select, config: Easi3RConfig, align, log, *, eval_data, refine: bool) -> Forecast:
        self.planned += 1
        assert config.weights == "dust3r" and refine
        if self.error is not None:
            raise self.error
        job = Job(DUSt3RConfig(), (24, 32), num_frames=10, num_pairs=30, source_pixels=640 * 480, align=align)
        stage = StageForecast("pass 2", self.seconds, self.memory_gib * GIB, self.gpu_gib * GIB)
        return Forecast(job, self.device, (stage,), self.budget)

    def ask(self, name: str) -> str | None:
        self.asked += 1
        return self.hub

    def download(self, repo: str, name: str, *, local_files_only: bool = False, **options: object) -> str:
        if local_files_only:
            raise FileNotFoundError(name)
        self.downloads.append(name)
        raise OSError("the disk is full")

    def has_weights(self) -> None:
        self.folder.mkdir(parents=True)
        for name in sources.HUB_FILES:
            (self.folder / name).write_text("{}")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path / "weights")


def test_auto_is_the_default_and_named_weights_are_not_judged(data: Path, machine: Machine) -> None:
    assert (Easi3RConfig().weights, RefineConfig().refine) == ("auto", "auto")
    for name in ("tiny", "none", "dust3r", "some/where.pth"):
        config = replace(CONFIG, easi3r=Easi3RConfig(weights=name))
        choice = choose_weights(data, None, config, Lines())
        assert (choice.weights, choice.line, choice.provenance()) == (name, "", {}) and choice.applied(config) == config
    assert not machine.planned and not machine.asked


def test_a_slow_network_is_left_to_those_who_ask_for_it(data: Path, machine: Machine) -> None:
    machine.hub, machine.seconds = None, LONGEST_SECONDS + 1
    choice = choose_weights(data, None, CONFIG, Lines())
    assert choice.weights == "none" and choice.applied(CONFIG).easi3r.weights == "none" and choice.plan is None
    for words in ("auto takes none", "would take about 15 min and 2.0 GiB", "(cpu) after its download", "2.3 GB",
                  sources.NON_COMMERCIAL, "up to 15 min", "--weights dust3r"):  # fmt: skip
        assert words in choice.line, words
    assert "\n" not in choice.line and not machine.asked and not machine.downloads, "the hub is not even asked"
    machine.has_weights()
    assert "after its download" not in choose_weights(data, None, CONFIG, Lines()).line
    machine.seconds = LONGEST_SECONDS
    assert choose_weights(data, None, CONFIG, Lines()).weights == "dust3r"


def test_a_fast_network_that_is_here_is_taken(data: Path, machine: Machine) -> None:
    machine.has_weights()
    choice = choose_weights(data, None, CONFIG, Lines())
    assert choice.weights == "dust3r" and choice.plan is not None and choice.plan.seconds == 60
    for words in ("auto takes dust3r", sources.NON_COMMERCIAL, "about 1 min", "--weights none would take roughly"):
        assert words in choice.line, words
    assert not machine.asked and not machine.downloads


def test_a_network_that_cannot_be_had_is_not_taken(data: Path, machine: Machine) -> None:
    choice = choose_weights(data, None, CONFIG, Lines())
    assert choice.weights == "none" and "not on this machine, and the hub cannot be reached (test)" in choice.line
    assert machine.asked == 1 and not machine.downloads
    machine.hub, log = None, Lines()
    choice = choose_weights(data, None, CONFIG, log)
    assert choice.weights == "none" and "the download failed: " in choice.line and "(the disk is full)" in choice.line
    assert machine.downloads and sources.NON_COMMERCIAL in log.said[0], "the licence is shown before the download"
    # Nothing is downloaded to look at the choice alone.
    machine.downloads.clear()
    assert judge_weights(data, CONFIG, Lines()).weights == "dust3r" and not machine.downloads


def test_a_network_that_does_not_fit_is_not_taken(data: Path, machine: Machine, monkeypatch) -> None:
    machine.has_weights()
    machine.budget = Budget(1, 0, True, 1.5 * GIB)
    assert "only 1.5 GiB are free" in choose_weights(data, None, CONFIG, Lines()).line
    machine.budget, machine.device, machine.gpu_gib = UNBOUNDED, "cuda", 8.0
    install_gpu(monkeypatch, free=4 * GIB)
    assert "8.0 GiB on the GPU" in (line := choose_weights(data, None, CONFIG, Lines()).line)
    assert "auto takes none" in line and "only 4.0 GiB are free on the GPU" in line
    machine.error = MemoryLimitError("--max-memory 1: this run needs at least 2 GiB")
    assert "dust3r does not fit: --max-memory 1" in choose_weights(data, None, CONFIG, Lines()).line
    machine.error = InputError("the clip has one frame")
    with pytest.raises(InputError, match="one frame"):
        choose_weights(data, None, CONFIG, Lines())


def test_damaged_weights_and_bad_options_are_not_hidden(data: Path, machine: Machine) -> None:
    machine.folder.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="should hold model.safetensors"):
        choose_weights(data, None, CONFIG, Lines())
    machine.seconds = 2 * LONGEST_SECONDS
    assert choose_weights(data, None, CONFIG, Lines()).weights == "none", "weights that are not wanted do no harm"
    with pytest.raises(InputError, match="--graph"):
        choose_weights(data, None, replace(CONFIG, easi3r=Easi3RConfig(graph="ring-x")), Lines())


def test_what_only_a_network_can_do_takes_one(data: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pipeline: GeometricPipeline, log: Lines) -> None:
        raise InputError("one focal length only")

    monkeypatch.setattr(GeometricPipeline, "check", refuse)
    machine.seconds = 10 * LONGEST_SECONDS
    with pytest.raises(CheckpointError, match="the disk is full"):
        choose_weights(data, None, CONFIG, Lines())
    machine.has_weights()
    choice = choose_weights(data, None, CONFIG, Lines())
    assert choice.weights == "dust3r" and "none cannot be used: one focal length only" in choice.line


def test_an_interrupted_run_goes_on_with_what_it_chose(data: Path, clip: Clip, machine: Machine, monkeypatch) -> None:
    """The second run comes when the weights are there and fast: it would choose otherwise."""
    out, chosen = data.parent / "out", []

    class Interrupted(Oracle):
        def reconstruct(self, *args, **options):
            raise AlignmentError("stopped")

    def pipeline(config: RunConfig) -> Oracle:
        if config.easi3r.weights in ("none", "dust3r"):
            chosen.append(config.easi3r.weights)
        return Interrupted(clip, data.parent / "truth")

    monkeypatch.setattr(run, "choose_pipeline", pipeline)
    for _ in range(2):
        with pytest.raises(AlignmentError):
            run.process(data, out, CONFIG, overwrite=False, log=Lines())
        if not machine.folder.exists():
            machine.has_weights()
    assert chosen == ["none", "none"] and machine.planned == 1
    other = replace(CONFIG, dataset=DatasetConfig(num_downscales=1))
    with pytest.raises(AlignmentError):
        run.process(data, out, other, overwrite=False, log=Lines())
    assert chosen[-1] == "dust3r", "other options are another run"


def test_a_run_says_and_records_what_it_chose(data: Path, clip: Clip, machine: Machine, monkeypatch) -> None:
    oracle, out, log = Oracle(clip, data.parent / "truth"), data.parent / "out", Lines()
    monkeypatch.setattr(run, "choose_pipeline", lambda config: oracle)
    result = run.process(data, out, CONFIG, overwrite=False, log=log)
    record = result.scene.provenance
    assert log.said[0] == record["weights_choice"]["line"] and "auto takes none" in log.said[0]
    assert (record["weights_choice"]["asked"], record["weights_choice"]["chosen"]) == ("auto", "none")
    assert record["config"]["easi3r"]["weights"] == "none", "the command of the report makes the same dataset"
    assert json.loads((out / "transforms.json").read_text())["easi3r"]["weights_choice"]["chosen"] == "none"
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "auto takes none (no network): dust3r" in text.replace("<code>", "").replace("</code>", "")
    assert not any("weights" in text for text in log.warnings) and not (out / run.WORKSPACE).exists()


def test_a_forecast_is_made_once(data: Path, clip: Clip, machine: Machine, monkeypatch) -> None:
    machine.has_weights()
    oracle, log = Oracle(clip, data.parent / "truth"), Lines()
    monkeypatch.setattr(run, "choose_pipeline", lambda config: oracle)
    run.process(data, data.parent / "out", CONFIG, overwrite=False, log=log)
    assert "forecast" not in oracle.called and machine.planned == 1
    assert any(line.startswith("10 frames at 512x384, 30 pairs; about 1 min") for line in log.said)
    assert log.said[-1].endswith("forecast: 1 min and 2.0 GiB")


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("of some HTTP library\nmore")])
def test_the_hub_is_asked_once_and_its_refusal_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        assert "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt" in url and timeout <= hub.HUB_SECONDS
        raise error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    reason = sources.reason_against_download("dust3r")
    assert str(error).splitlines()[0] in reason and "model.safetensors" in reason and "\n" not in reason
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: None)
    assert sources.reason_against_download("dust3r") is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "switched off" in sources.reason_against_download("dust3r")


def test_a_silent_hub_does_not_hold_up_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: answer.wait(60))
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.2)
    begin = time.perf_counter()
    assert "does not answer" in sources.reason_against_download("dust3r")
    assert time.perf_counter() - begin < 10
    answer.set()


def test_captures_that_are_scored_share_one_choice(data: Path, machine: Machine, monkeypatch) -> None:
    from easi3r_ns.evaluate.runs import with_chosen_weights

    captures = [SimpleNamespace(name=name, data=data) for name in ("one", "two")]
    machine.has_weights()
    assert with_chosen_weights(captures, CONFIG, Lines()).easi3r.weights == "dust3r"
    seconds = iter([60.0, 2 * LONGEST_SECONDS])
    plan = machine.plan

    def slower(*args, **options) -> Forecast:
        machine.seconds = next(seconds)
        return plan(*args, **options)

    monkeypatch.setattr(module, "plan_run", slower)
    log = Lines()
    assert with_chosen_weights(captures, CONFIG, log).easi3r.weights == "none" and log.said[-1].startswith("two: ")
    named = replace(CONFIG, easi3r=Easi3RConfig(weights="tiny"))
    assert with_chosen_weights(captures, named, log) is named


def test_a_plan_says_what_a_run_would_choose(data: Path, machine: Machine, monkeypatch, capsys) -> None:
    from easi3r_ns.cli.plan import Plan

    forecast = machine.plan(data, None, Easi3RConfig(weights="dust3r"), CONFIG.align, None, eval_data=None, refine=True)
    monkeypatch.setattr("easi3r_ns.plan.plan.plan_run", lambda *args, **options: forecast)
    machine.planned = 0
    Plan(data).main()
    assert "auto takes none" in capsys.readouterr().out and not machine.planned
    Plan(data, config=Easi3RConfig(weights="dust3r")).main()
    assert "auto takes" not in capsys.readouterr().out


def test_pipelines_are_those_of_the_choice(data: Path, machine: Machine) -> None:
    """Without made-up pipelines: the names that the choice gives lead to the two pipelines."""
    for here, kind in ((False, GeometricPipeline), (True, NetworkPipeline)):
        if here:
            machine.has_weights()
        config = choose_weights(data, None, CONFIG, Lines()).applied(CONFIG)
        assert type(run.choose_pipeline(config)) is kind
