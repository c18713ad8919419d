from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.score import ScoreFormula
from easi3r_ns.core.types import AttentionStats, PairGraph
from easi3r_ns.motion.attention.statistics import (
    AttentionAccumulator,
    RunningMoments,
    SummaryAccumulator,
    dynamic_score,
    fused_maps,
    min_max_per_frame,
    score_of,
)
from easi3r_ns.network.inference import visiting_order
from tests.support.helpers import load_golden
from tests.support.twins import attention_stats_naive, summarise

OFFICIAL = {"mean_src": "k_i_mean", "std_src": "k_i_std", "mean_ref": "k_j_mean", "std_ref": "k_j_std"}


def accumulate(edges, on_j, on_i, num_frames, centred=False) -> AttentionStats:
    accumulator = AttentionAccumulator(num_frames, centred)
    for edge, a, b in zip(edges.tolist(), on_j, on_i):
        accumulator.add(edge, torch.from_numpy(a), torch.from_numpy(b))
    return accumulator.finish()


@pytest.fixture(scope="module")
def pass1():
    return load_golden("pipeline", "pass1")


def test_golden_statistics_from_raw_attention(pass1):
    stats = accumulate(pass1["edges"], pass1["raw_attn_k1"], pass1["raw_attn_k2"], 8)
    for ours, theirs in OFFICIAL.items():
        np.testing.assert_allclose(getattr(stats, ours), pass1[f"agg_{theirs}"], atol=1e-4, err_msg=ours)


@pytest.mark.parametrize("name", ["pass1", "pass2"])
def test_golden_maps_and_score(name):
    golden = load_golden("pipeline", name)
    stats = AttentionStats(**{ours: golden[f"agg_{theirs}"] for ours, theirs in OFFICIAL.items()})
    for ours, value in fused_maps(stats).items():
        np.testing.assert_allclose(value, golden[f"fused_{OFFICIAL[ours]}"], atol=1e-4, err_msg=ours)
    np.testing.assert_allclose(dynamic_score(stats), golden["dynamic_map"], atol=1e-4)


def random_maps(num_edges, seed=0, shape=(3, 4, 5)):
    rng = np.random.default_rng(seed)
    return [rng.normal(7, 2, (num_edges, *shape)).astype(np.float32) for _ in range(2)]


def test_streaming_equals_all_at_once():
    edges = np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    on_j, on_i = random_maps(len(edges))
    fast, slow = accumulate(edges, on_j, on_i, 4), attention_stats_naive(edges, on_j, on_i, 4)
    for name in OFFICIAL:
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=1e-5)


def test_order_of_pairs_does_not_matter():
    edges = np.array([(i, j) for i in range(3) for j in range(3) if i != j])
    on_j, on_i = random_maps(len(edges))
    order = np.random.default_rng(1).permutation(len(edges))
    a, b = accumulate(edges, on_j, on_i, 3), accumulate(edges[order], on_j[order], on_i[order], 3)
    np.testing.assert_allclose(a.std_src, b.std_src, atol=1e-5)
    np.testing.assert_allclose(a.mean_ref, b.mean_ref, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 12])
def test_batches_in_which_frames_repeat_equal_single_pairs(batch):
    edges = np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    on_j, on_i = random_maps(len(edges))
    accumulator = AttentionAccumulator(4)
    for start in range(0, len(edges), batch):
        rows = slice(start, start + batch)
        accumulator.add_pairs(edges[rows], torch.from_numpy(on_j[rows]), torch.from_numpy(on_i[rows]))
    ours, slow = accumulator.finish(), attention_stats_naive(edges, on_j, on_i, 4)
    for name in OFFICIAL:
        np.testing.assert_allclose(getattr(ours, name), getattr(slow, name), atol=1e-5)


@pytest.mark.parametrize(
    "formula",
    [
        ScoreFormula(),
        ScoreFormula(0, 1, 0, -1, centred=True, first_channel=2),
        ScoreFormula(0, 1, 0, -1, first_channel=1, log_std=True),
    ],
)
def test_the_summary_gives_the_score_of_all_statistics(formula):
    graph = make_pairs("swinstride-2-noncyclic", 9)
    on_j, on_i = random_maps(len(graph))
    sink = SummaryAccumulator(graph, formula)
    order = np.random.default_rng(3).permutation(len(graph))
    for rows in np.array_split(order, 5):
        sink.add_pairs(graph.edges[rows], torch.from_numpy(on_j[rows]), torch.from_numpy(on_i[rows]))
    stats = accumulate(graph.edges, on_j, on_i, 9, formula.centred)
    ours, plain = sink.finish(), summarise(stats, formula)
    fused = {name: summary.fused() for name, summary in ours.items()}
    for name in OFFICIAL:
        np.testing.assert_allclose(ours[name].mean, plain[name].mean, atol=1e-5)
        assert (ours[name].low, ours[name].high) == pytest.approx((plain[name].low, plain[name].high), abs=1e-5)
        np.testing.assert_allclose(fused[name], fused_maps(stats, formula)[name], atol=1e-5)
    np.testing.assert_allclose(score_of(fused, formula), dynamic_score(stats, formula), atol=1e-4)


def test_pairs_that_do_not_fit_leave_nothing_and_come_again(monkeypatch):
    graph = make_pairs("swinstride-2-noncyclic", 5)
    on_j, on_i = (torch.from_numpy(maps) for maps in random_maps(len(graph)))
    halves, sides, merged = np.array_split(np.arange(len(graph)), 2), [], RunningMoments.merged

    def full(self, *args):
        sides.append(self)
        if len(sides) % 2 == 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return merged(self, *args)

    sinks = AttentionAccumulator(5), SummaryAccumulator(graph, ScoreFormula())
    for sink in sinks:
        sink.add_pairs(graph.edges[halves[0]], on_j[halves[0]], on_i[halves[0]])
        with monkeypatch.context() as patch:
            patch.setattr(RunningMoments, "merged", full)
            with pytest.raises(torch.cuda.OutOfMemoryError):
                sink.add_pairs(graph.edges[halves[1]], on_j[halves[1]], on_i[halves[1]])
        sink.add_pairs(graph.edges[halves[1]], on_j[halves[1]], on_i[halves[1]])
    slow = attention_stats_naive(graph.edges, on_j.numpy(), on_i.numpy(), 5)
    ours, summary, plain = sinks[0].finish(), sinks[1].finish(), summarise(slow)
    for name in OFFICIAL:
        np.testing.assert_allclose(getattr(ours, name), getattr(slow, name), atol=1e-5)
        np.testing.assert_allclose(summary[name].mean, plain[name].mean, atol=1e-5)


def test_golden_score_from_the_summary(pass1):
    graph = PairGraph(pass1["edges"].astype(np.int64), 8)
    sink = SummaryAccumulator(graph, ScoreFormula())
    sink.add_pairs(graph.edges, torch.from_numpy(pass1["raw_attn_k1"]), torch.from_numpy(pass1["raw_attn_k2"]))
    fused = {name: summary.fused() for name, summary in sink.finish().items()}
    np.testing.assert_allclose(score_of(fused, ScoreFormula()), pass1["dynamic_map"], atol=1e-4)


def test_statistics_of_a_long_clip_hold_few_frames_at_a_time():
    graph = make_pairs("swinstride-3-noncyclic", 200)
    on_j, on_i = random_maps(1, shape=(2, 2, 3))
    sink, most = SummaryAccumulator(graph, ScoreFormula()), 0
    for row in visiting_order(graph.edges, 4):
        sink.add_pairs(graph.edges[[row]], torch.from_numpy(on_j), torch.from_numpy(on_i))
        most = max(most, sink.open_frames())
    assert 0 < most < 30 and sink.open_frames() == 0
    assert sink.finish()["mean_src"].mean.shape == (200, 2, 2)


def test_a_summary_without_all_pairs_is_refused():
    graph = make_pairs("complete", 3)
    on_j, on_i = (torch.from_numpy(maps) for maps in random_maps(len(graph)))
    sink = SummaryAccumulator(graph, ScoreFormula())
    sink.add_pairs(graph.edges[:-1], on_j[:-1], on_i[:-1])
    with pytest.raises(ValueError, match=r"without all of their pairs: \[1, 2\]"):
        sink.finish()


def test_a_single_pair_has_no_deviation_and_no_nan():
    edges = np.array([(0, 1), (1, 0)])
    stats = accumulate(edges, *random_maps(2), 2)
    assert not stats.std_src.any() and not stats.std_ref.any()
    assert np.isfinite(dynamic_score(stats)).all()


def test_the_top_left_token_is_replaced_in_every_map():
    edges = np.array([(0, 1), (1, 0)])
    on_j, on_i = random_maps(2)
    stats = accumulate(edges, on_j, on_i, 2)
    np.testing.assert_allclose(stats.mean_src[1, 0, 0], (on_j[0, 0, 1] + on_j[0, 1, 0]) / 2, rtol=1e-6)
    on_j[:, 0, 0] = 1e6
    np.testing.assert_array_equal(accumulate(edges, on_j, on_i, 2).mean_src, stats.mean_src)


def test_centred_statistics_do_not_see_what_all_tokens_of_a_pair_have_in_common():
    edges = np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    on_j, on_i = random_maps(len(edges))
    rng = np.random.default_rng(2)
    shifted = [maps + 50 * rng.normal(size=(len(edges), 1, 1, 5)).astype(np.float32) for maps in (on_j, on_i)]
    plain, centred, again = (
        accumulate(edges, *maps, 4, centred) for maps, centred in (((on_j, on_i), 0), ((on_j, on_i), 1), (shifted, 1))
    )
    for name in OFFICIAL:
        np.testing.assert_allclose(getattr(centred, name), getattr(again, name), atol=1e-3)
        assert not np.allclose(getattr(centred, name), getattr(plain, name), atol=0.05)
    np.testing.assert_allclose(centred.mean_src.mean(axis=(1, 2)), 0, atol=1e-5)
    on_j[:, 0, 0] = (on_j[:, 0, 1] + on_j[:, 1, 0]) / 2  # the sink goes before the mean is taken
    by_hand = [maps - maps.mean(axis=(1, 2), keepdims=True) for maps in (on_j, on_i)]
    into = by_hand[0][edges[:, 1] == 2]
    np.testing.assert_allclose(centred.std_src[2], into.std(axis=0, ddof=1), atol=1e-5)


def test_a_frame_without_a_pair_is_named():
    with pytest.raises(ValueError, match=r"without a pair: \[2\]"):
        accumulate(np.array([(0, 1), (1, 0)]), *random_maps(2), 3)


def test_formula_takes_single_maps_and_complements():
    edges = np.array([(i, j) for i in range(3) for j in range(3) if i != j])
    stats = accumulate(edges, *random_maps(len(edges)), 3)
    maps = fused_maps(stats)
    only = dynamic_score(stats, ScoreFormula(0, 0, 0, 1))
    np.testing.assert_allclose(only, min_max_per_frame(maps["std_ref"]), atol=1e-6)
    inverse = dynamic_score(stats, ScoreFormula(0, 0, 0, -1))
    np.testing.assert_allclose(inverse, 1 - only, atol=1e-4)
    paper = (1 - maps["mean_src"]) * maps["std_src"] * maps["mean_ref"] * (1 - maps["std_ref"])
    np.testing.assert_allclose(dynamic_score(stats), min_max_per_frame(paper), atol=1e-6)


def test_a_formula_goes_onto_a_card_and_comes_back():
    formula = ScoreFormula(0, 1, 0, -1, centred=True, first_channel=3, log_std=True, num_clusters=8, clusterings=2)
    card = json.loads(json.dumps(asdict(formula)))
    assert ScoreFormula.from_card(card, num_channels=4) == formula
    assert ScoreFormula.from_card({"mean_src": -1, "std_src": 1, "mean_ref": 1, "std_ref": -1}, 1) == ScoreFormula()
    with pytest.raises(ValueError, match="0 to 2 for first_channel"):
        ScoreFormula.from_card(card, num_channels=3)


def test_flow_may_be_the_only_factor():
    alone = ScoreFormula(0, 0, 0, 0, flow_residual=True)
    assert ScoreFormula.from_card(json.loads(json.dumps(asdict(alone))), num_channels=4) == alone
    assert str(alone) == "flow_residual" and alone.num_factors == 1 and not alone.has_attention
    assert ScoreFormula().num_factors == 4 and ScoreFormula().has_attention
    residual = np.random.default_rng(0).uniform(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(score_of({"flow_residual": residual}, alone), min_max_per_frame(residual))
    residual[1] = 1  # as in a frame that flow cannot follow
    np.testing.assert_array_equal(alone.combine({"flow_residual": residual})[1], 0)
    maps = {"flow_residual": residual, "std_src": residual[::-1]}
    with_attention = ScoreFormula(0, 1, 0, 0, flow_residual=True).combine(maps)
    np.testing.assert_array_equal(with_attention[1], residual[0])
    with pytest.raises(ValueError, match="without flow_residual one must not be 0"):
        ScoreFormula(0, 0, 0, 0)


def test_a_formula_in_words():
    assert str(ScoreFormula()) == "(1 - mean_src) * std_src * mean_ref * (1 - std_ref)"
    words = str(ScoreFormula(0, 1, 0, -1, centred=True, first_channel=8))
    assert words == "std_src * (1 - std_ref), maps centred, channels from 8 on"
    words = str(ScoreFormula(0, 1, 0, 0, log_std=True, num_clusters=16, clusterings=8))
    assert words == "std_src, logarithms of deviations, 8 x 16 clusters"
    assert str(ScoreFormula(0, 1, 0, -1, flow_residual=True)) == "std_src * (1 - std_ref) * flow_residual"


def test_the_residual_of_flow_is_one_more_factor():
    edges, on_j, on_i = np.array([[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]]), *random_maps(6)
    stats, formula = accumulate(edges, on_j, on_i, 3), ScoreFormula(0, 1, 0, 0)
    fused, residual = fused_maps(stats), np.zeros((3, *on_j.shape[1:3]), dtype=np.float32)
    residual[:, 1] = 0.5
    score = score_of(fused | {"flow_residual": residual}, replace(formula, flow_residual=True))
    assert not score[:, 0].any()
    np.testing.assert_allclose(score, min_max_per_frame(residual * fused["std_src"]), atol=1e-6)
    np.testing.assert_array_equal(score_of(fused | {"flow_residual": residual}, formula), score_of(fused, formula))
    with pytest.raises(ValueError, match="needs the map flow_residual"):
        dynamic_score(stats, replace(formula, flow_residual=True))


def test_early_channels_are_left_out():
    edges = np.array([(i, j) for i in range(3) for j in range(3) if i != j])
    on_j, on_i = random_maps(len(edges))
    late = accumulate(edges, on_j[..., 2:], on_i[..., 2:], 3)
    score = dynamic_score(accumulate(edges, on_j, on_i, 3), ScoreFormula(first_channel=2))
    np.testing.assert_allclose(score, dynamic_score(late), atol=1e-6)
    with pytest.raises(ValueError, match="first_channel -1"):
        ScoreFormula(first_channel=-1)


def test_logarithms_do_not_let_one_channel_drown_the_others():
    edges = np.array([(i, j) for i in range(4) for j in range(4) if i != j])
    on_j, on_i = random_maps(len(edges))
    loud_j = on_j.copy()
    loud_j[..., 0] *= 1000
    plain, log = ScoreFormula(0, 1, 0, 0), ScoreFormula(0, 1, 0, 0, log_std=True)
    scores = {
        formula: [dynamic_score(accumulate(edges, maps, on_i, 4), formula) for maps in (on_j, loud_j)]
        for formula in (plain, log)
    }
    np.testing.assert_allclose(*scores[log], atol=1e-3, err_msg="a factor of a channel is a summand of its logarithm")
    assert np.abs(np.subtract(*scores[plain])).max() > 0.3
    stats = accumulate(edges, on_j, on_i, 4)
    mean = np.exp(np.log(stats.std_src + 1e-6).mean(-1))
    order = [np.argsort(maps, axis=None) for maps in (fused_maps(stats, log)["std_src"], mean)]
    np.testing.assert_array_equal(*order)


def test_logarithms_of_frames_in_one_pair_only_are_finite():
    edges = np.array([(0, 1), (1, 0), (1, 2), (2, 1)])
    score = dynamic_score(accumulate(edges, *random_maps(len(edges)), 3), ScoreFormula(0, 1, 0, -1, log_std=True))
    assert np.isfinite(score).all() and score[1].max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("signs", [(0, 0, 0, 0), (2, 0, 0, 0)])
def test_senseless_formulas_are_refused(signs):
    with pytest.raises(ValueError, match="score formula"):
        ScoreFormula(*signs)


@pytest.mark.parametrize("clusters", [{"num_clusters": 0}, {"clusterings": 0}])
def test_senseless_numbers_of_clusters_are_refused(clusters):
    with pytest.raises(ValueError, match="at least 1"):
        ScoreFormula(**clusters)
