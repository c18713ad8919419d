"""What is predicted is what is then measured."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from easi3r_ns.cli.plan import Plan, print_forecast
from easi3r_ns.core.budget import UNBOUNDED, Budget
from easi3r_ns.core.config import AlignConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import CheckpointError, InputError, MemoryLimitError
from easi3r_ns.core.runlog import RunLog, StageRecord
from easi3r_ns.core.score import ScoreFormula
from easi3r_ns.frames import KEPT_BYTES
from easi3r_ns.network.compute import Compute
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.costs import num_parameters
from easi3r_ns.network.sources import resolve
from easi3r_ns.network.weights import describe
from easi3r_ns.pipelines.geometric import GEOMETRY
from easi3r_ns.pipelines.run import RunConfig, process
from easi3r_ns.plan.calibration import Rates, calibrate
from easi3r_ns.plan.experience import load_experience
from easi3r_ns.plan.forecast import (
    REFINE_PIXELS,
    Job,
    actual_line,
    forecast,
    forecast_lines,
    matched_pairs,
    refine_seconds,
)
from easi3r_ns.plan.geometric import GeometricJob, forecast_geometric
from easi3r_ns.plan.plan import Network, learn_from, network_of, plan_geometric, plan_run
from easi3r_ns.storage.video import write_video
from tests.support.helpers import Lines
from tests.support.pretend_gpu import install_gpu


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("EASI3R_NS_CACHE", str(tmp_path / "cache"))


CPU = Compute(torch.device("cpu"))
SMALL = DUSt3RConfig(
    enc_embed_dim=64, enc_depth=2, enc_num_heads=4, dec_embed_dim=64, dec_depth=4, dec_num_heads=4, head_type="linear"
)
JOB = Job(SMALL, (6, 8), num_frames=10, num_pairs=50, source_pixels=640 * 480, align=AlignConfig())
RATES = Rates(encode=1.0, attend=2.0, decode=3.0, base_bytes=1e9)


def stages(result) -> dict:
    return {stage.name: stage for stage in result.stages}


def test_network_time_is_calls_times_rate():
    result = stages(forecast(JOB, CPU, RATES))
    assert result["encode frames"].seconds == 10 and result["pass 1"].seconds == 100
    assert result["pass 2"].seconds == 150
    assert "pass 1" not in stages(forecast(replace(JOB, two_passes=False), CPU, RATES))


def test_flow_in_the_score_costs_time_where_masks_are_looked_for(tmp_path):
    assert "motion from flow" not in stages(forecast(JOB, CPU, RATES))
    job = replace(JOB, flow_residual=True)
    planned = stages(forecast(job, CPU, RATES))
    one, two = (stages(forecast(replace(job, num_frames=n), CPU, RATES))["motion from flow"] for n in (40, 80))
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert two.memory_bytes - one.memory_bytes < 40e6, "it goes by blocks"
    work = 50 * 10 * 288 * 384
    held = planned["frames"].memory_bytes - KEPT_BYTES
    assert planned["motion from flow"].memory_bytes > held + work
    data = write_pan(tmp_path / "clip", 4)
    network = Network(SMALL, "complete", flow_residual=True)
    for options, expected in (({}, True), ({"no_adapt": True}, True), ({"no_masks": True}, False)):
        config = Easi3RConfig(weights="tiny", **options)
        plan = plan_run(data, FrameConfig(), config, AlignConfig(), RunLog(), network=network)
        assert plan.job.flow_residual is expected and plan.job.graph == "complete"


def test_bundle_adjustment_is_counted_where_it_follows(tmp_path, monkeypatch):
    monkeypatch.setattr("easi3r_ns.plan.plan.calibrate", lambda *args: RATES)
    assert "bundle adjustment" not in stages(forecast(JOB, CPU, RATES))
    job = replace(JOB, refine=True)
    one, two = (stages(forecast(replace(job, num_frames=n), CPU, RATES))["bundle adjustment"] for n in (200, 400))
    assert two.seconds == pytest.approx(2 * one.seconds, rel=0.1) and one.seconds > 0
    few, more = (refine_seconds(n, 640 * 480) for n in (10, 20))
    assert 2.5 * few < more < 4.5 * few, "all pairs of a short clip are matched"
    huge, at_most = refine_seconds(40, 10 * REFINE_PIXELS), refine_seconds(40, REFINE_PIXELS)
    assert huge == at_most
    data, config = write_pan(tmp_path / "clip", 4), Easi3RConfig(weights="tiny")
    for refine in (True, False):
        plan = plan_run(data, FrameConfig(), config, AlignConfig(), RunLog(), refine=refine)
        assert plan.job.refine is refine


def test_the_second_look_is_counted_where_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("easi3r_ns.plan.plan.calibrate", lambda *args: RATES)
    name = "motion against the scene"
    assert name not in stages(forecast(JOB, CPU, RATES))
    job = replace(JOB, second_look=True)
    one, two = (stages(forecast(replace(job, num_frames=n), CPU, RATES))[name] for n in (40, 80))
    assert two.seconds == pytest.approx(2 * one.seconds) and one.seconds > 0
    data = write_pan(tmp_path / "clip", 4)
    for options, expected in (({}, True), ({"motion": "attention"}, False), ({"no_masks": True}, False)):
        config = Easi3RConfig(weights="tiny", **options)
        assert plan_run(data, FrameConfig(), config, AlignConfig(), RunLog()).job.second_look is expected


def test_memory_counts_the_half_that_is_loaded_and_grows_with_the_pairs():
    result = stages(forecast(JOB, CPU, RATES))
    encoder, decoder = num_parameters(SMALL)
    assert result["encode frames"].memory_bytes > 1e9 + 4 * encoder
    assert result["pass 2"].memory_bytes > 1e9 + 4 * decoder + 50 * 6 * 8 * 256 * 8 * 2
    twice = forecast(replace(JOB, num_pairs=5000), CPU, RATES)
    assert twice.memory_bytes > forecast(JOB, CPU, RATES).memory_bytes + 4950 * 6 * 8 * 256 * 8 * 2


def test_on_a_gpu_weights_and_activations_lie_there(monkeypatch):
    install_gpu(monkeypatch, free=2**34)
    result = forecast(JOB, Compute(torch.device("cuda")), RATES)
    assert result.gpu_bytes > 4 * num_parameters(SMALL)[1]
    assert stages(result)["encode frames"].memory_bytes < 1.1e9
    assert "GPU" in str(result) and "GPU" not in str(forecast(JOB, CPU, RATES))


def test_calibration_tells_large_from_small():
    small = calibrate(SMALL, (6, 8), CPU)
    large = calibrate(replace(SMALL, enc_embed_dim=256, dec_embed_dim=256), (12, 16), CPU)
    for name in ("encode", "attend", "decode"):
        assert 0 < getattr(small, name) < getattr(large, name)
    assert small.attend < small.decode


def test_published_networks_need_no_weights_here():
    assert network_of("dust3r")[0] == network_of("auto")[0] == DUSt3RConfig()
    assert network_of("dust3r-224")[0].square
    assert network_of("tiny").config.patch_size == 8
    assert not network_of("dust3r").flow_residual
    info = describe(resolve("tiny", download=False))[1]
    for flow in (False, True):
        with_flow = replace(info, score=ScoreFormula(flow_residual=bool(flow)), graph=None)
        assert Network.of(with_flow) == (info.config, "swinstride-5-noncyclic", flow)
    with pytest.raises(CheckpointError, match="not a known name"):
        network_of("dust4r")
    with pytest.raises(InputError, match="no network"):
        network_of("none")


def test_frames_that_threads_write_at_once_count(monkeypatch):
    """A run in 4K on many cores needs gigabytes to write what it needs hundreds of megabytes to compute."""
    pixels, small = 3840 * 2160, JOB.source_pixels
    planned = {}
    for cores in (1, 8, 64):
        monkeypatch.setattr("easi3r_ns.core.workers.usable_cores", lambda cores=cores: cores)
        network = [forecast(replace(JOB, source_pixels=size), CPU, RATES) for size in (small, pixels)]
        geometric = [forecast_geometric(GeometricJob(10, (512, 288), size)) for size in (small, pixels)]
        more = [big.stages[-1].memory_bytes - little.stages[-1].memory_bytes for little, big in (network, geometric)]
        assert {plan.stages[-1].name for plan in (*network, *geometric)} == {"dataset"}
        assert more[0] == pytest.approx(more[1])
        planned[cores] = more[0] / (pixels - small)
    assert planned[8] == pytest.approx(8 * planned[1]) and 15 < planned[1] < 30
    assert planned[64] == pytest.approx(planned[8]), "no more threads than that"


def write_pan(folder: Path, count: int) -> Path:
    """A folder of images that slide over one texture."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    for k in range(count):
        cv2.imwrite(str(folder / f"{k:03d}.png"), texture[2 * k : 2 * k + 288, 4 * k : 4 * k + 384])
    return folder


def test_a_clip_is_planned_from_one_frame(tmp_path):
    data = write_pan(tmp_path / "clip", 6)
    config = Easi3RConfig(weights="tiny", graph="complete")
    result = plan_run(data, FrameConfig(num_frames_target=4), config, AlignConfig(), RunLog())
    assert (result.job.num_frames, result.job.num_pairs) == (4, 12)
    assert result.seconds > 0 and result.memory_bytes > 2**28
    with pytest.raises(InputError, match="does not exist"):
        plan_run(tmp_path / "none.mp4", FrameConfig(), config, AlignConfig(), RunLog())


def test_a_folder_of_one_video_is_planned_for_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("easi3r_ns.plan.plan.calibrate", lambda *args: RATES)
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", [np.full((48, 64, 3), 40 * k, np.uint8) for k in range(5)], Fraction(10))
    for weights in ("tiny", "auto"):
        Plan(tmp_path / "clips", config=Easi3RConfig(weights=weights)).main()
        assert "5 frames" in capsys.readouterr().out


MEASURE = """
import sys, tempfile
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from easi3r_ns.pipelines import run
from easi3r_ns.plan.calibration import Rates, calibrate
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.plan.plan import plan_run
from easi3r_ns.core.runlog import RunLog
data, config, align = Path(sys.argv[1]), Easi3RConfig(weights="tiny", graph=sys.argv[2]), AlignConfig(iterations=3)
frames, log = FrameConfig(num_frames_target=0), RunLog()
plan = plan_run(data, frames, config, align, RunLog())
with tempfile.TemporaryDirectory() as folder:
    dataset = DatasetConfig(num_downscales=0, report=False)
    settings = run.RunConfig(frames, replace(config, motion="attention"), align, dataset, RefineConfig("none"))
    run.process(data, Path(folder) / "out", settings, overwrite=False, log=log)
wanted = {"pass 1": "pass 1: attention", "pass 2": "pass 2: pointmaps", "global alignment": "global alignment"}
measured = {stage.name: stage.peak_memory_bytes for stage in log.stages}
print(*(f"{s.memory_bytes / measured[wanted[s.name]]:.3f}" for s in plan.stages if s.name in wanted))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peaks by stage are Linux only")
@pytest.mark.parametrize(("graph", "frames"), [("swinstride-2-noncyclic", 24), ("complete", 10)])
def test_predicted_peak_is_within_a_fifth_of_the_measured_one(tmp_path, graph, frames):
    data = write_pan(tmp_path / "clip", frames)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(data), graph]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    ratios = [float(value) for value in result.stdout.splitlines()[-1].split()]
    assert len(ratios) == 3
    assert all(0.8 < ratio < 1.2 for ratio in ratios), ratios


def test_a_run_says_its_forecast_before_it_fetches_weights(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise CheckpointError("no connection")

    monkeypatch.setattr("easi3r_ns.plan.plan.calibrate", lambda *args: replace(RATES, base_bytes=1e9))
    monkeypatch.setattr("easi3r_ns.pipelines.network.LazyBackbone.open", offline)
    data, log = write_pan(tmp_path / "clip", 6), Lines()
    config = RunConfig(FrameConfig(num_frames_target=0), Easi3RConfig(weights="dust3r", device="cpu", max_memory=64))
    with pytest.raises(CheckpointError, match="no connection"):
        process(data, tmp_path / "out", config, overwrite=False, log=log)
    assert re.match(r"6 frames at 512x384, 18 pairs; about [\d.]+ min.* \(.* to .*\), .* GiB of memory", log.said[0])
    with pytest.raises(InputError, match="--max-memory 0.5: this run needs at least"):
        low = replace(config, easi3r=replace(config.easi3r, max_memory=0.5))
        process(data, tmp_path / "out", low, overwrite=False, log=log)
    assert not (tmp_path / "out").exists()


def test_frames_of_the_evaluation_views_count(tmp_path, monkeypatch):
    monkeypatch.setattr("easi3r_ns.plan.plan.calibrate", lambda *args: RATES)
    clip, held_out = write_pan(tmp_path / "clip", 6), write_pan(tmp_path / "eval", 3)
    config = Easi3RConfig(weights="tiny", graph="complete")
    plan = plan_run(clip, FrameConfig(), config, AlignConfig(), RunLog(), eval_data=held_out)
    assert (plan.job.num_frames, plan.job.num_eval) == (9, 3) and plan.job.num_pairs > 30 + 2 * 3


def test_hours_are_said_with_what_would_be_faster():
    job = Job(DUSt3RConfig(), (18, 32), num_frames=100, num_pairs=900, source_pixels=640 * 480, align=AlignConfig())
    long, short = (forecast(job, CPU, replace(RATES, decode=decode)) for decode in (30.0, 0.1))
    assert forecast_lines(short) == [str(short)]
    first, then = forecast_lines(long)
    assert re.search(r"100 frames at 512x288, 900 pairs; about [89] h", first)
    assert "--num-frames-target" in then and "--weights dust3r-224 about" in then and "GPU" in then
    # What it names keeps its word: the frames that it proposes take an hour.
    frames = int(then.split("--num-frames-target ")[1].split()[0])
    assert long.seconds * frames / 100 == pytest.approx(3600, rel=0.1) and "about 1 h" in then
    full = forecast_lines(replace(short, budget=Budget(1, 0, True, 1.0 * 2**30)))
    assert len(full) == 2 and full[1].startswith("1.0 GiB are free now, less than that (pairs one by one, intermediate")
    budget = Budget(1, 20, True, 4.0 * 2**30)
    assert forecast_lines(replace(long, budget=budget))[1] == (
        "to stay under 4.0 GiB: pairs one by one, intermediate results on disk, windows of 20 frames"
    )
    roomy = replace(budget, memory_bytes=64.0 * 2**30)
    assert forecast_lines(replace(short, budget=roomy), asked_window=True)[1:] == [str(roomy)]
    assert forecast_lines(replace(short, budget=replace(roomy, window=100))) == [str(short)]
    asked = replace(short, budget=replace(UNBOUNDED, window=20))  # where the system does not tell what is free
    assert forecast_lines(asked)[1] == "windows of 20 frames"


def test_plan_shows_the_budget():
    console = Console(width=100, record=True, file=io.StringIO())
    print_forecast(replace(forecast(JOB, CPU, RATES), budget=Budget(2, 0, True, 3.0 * 2**30)), console)
    text = console.export_text()
    assert "budget  2 pairs per call, intermediate results on disk (limit: 3.0 GiB)" in text
    for stage in ("each frame", "pass 1", "pass 2", "optical flow", "global alignment", "dataset", "total"):
        assert stage in text


def test_the_last_line_compares():
    plan = forecast(JOB, CPU, RATES)
    record = StageRecord("pass 2", 1.0, 1.0, 3 * 2**30)
    assert actual_line(plan, 75.0, [record]).startswith("took 1 min 15 s and 3.0 GiB of memory; forecast: 4 min")


def test_about_as_many_pairs_are_matched_as_forecast():
    from easi3r_ns.refine.matching import choose_pairs

    for count in (6, 60, 61, 300):
        descriptors = list(np.random.default_rng(0).integers(0, 255, (count, 20, 128), dtype=np.uint8))
        assert matched_pairs(count) == pytest.approx(len(choose_pairs(descriptors, 0)), rel=0.25)


def test_a_run_without_a_network_has_a_forecast(tmp_path, capsys):
    data = write_pan(tmp_path / "clip", 6)
    Plan(data, config=Easi3RConfig(weights="none")).main()
    text = capsys.readouterr().out
    assert re.search(r"^6 frames at 512x384, no network; about .* \(.* to .*\), .* GiB of memory", text)
    for words in (
        "cameras from features",
        "stereo",
        "write the dataset",
        "total",
        "All stages are estimated from operation counts",
    ):
        assert words in text
    frames = FrameConfig(num_frames_target=0)
    plan = plan_geometric(data, frames, Easi3RConfig(weights="none"), GEOMETRY, RunLog())
    fewer = plan_geometric(data, frames, Easi3RConfig(weights="none", depth="none", no_masks=True), GEOMETRY, RunLog())
    views = plan_geometric(data, frames, Easi3RConfig(weights="none"), GEOMETRY, RunLog(), eval_data=data)
    assert views.job.num_frames == 2 * plan.job.num_frames and views.seconds > plan.seconds
    assert fewer.seconds < plan.seconds and {s.name for s in plan.stages} - {s.name for s in fewer.stages} == {
        "motion from geometry", "stereo", "motion against the scene",
    }  # fmt: skip


def test_a_run_without_a_network_keeps_to_the_limit_of_memory(tmp_path):
    data, frames = write_pan(tmp_path / "clip", 6), FrameConfig(num_frames_target=0)

    def needs(limit):
        config = Easi3RConfig(weights="none", max_memory=limit)
        return plan_geometric(data, frames, config, GEOMETRY, RunLog()).memory_bytes / 2**30

    enough = needs(100.0)
    assert needs(enough / 0.8) == enough
    with pytest.raises(MemoryLimitError, match=r"--max-memory .*needs \d+\.\d\d GiB.*--num-frames-target") as refused:
        needs(enough)
    needs(float(re.search(r"needs ([\d.]+)", str(refused.value))[1]))


def test_a_run_that_other_programs_kept_waiting_teaches_nothing():
    plan = forecast(replace(JOB, refine=True), CPU, RATES)
    for share, learned in ((0.3, False), (1.0, True)):
        learn_from(plan, [StageRecord("features", 20.0, share * 20.0, 0)])
        assert bool(load_experience().ratios) is learned
