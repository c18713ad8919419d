"""The measurement of a checkpoint: known answers for perfect and for useless networks, and sums that add up."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from easi3r_ns.core.errors import AlignmentError, CheckpointError, InputError
from easi3r_ns.core.score import MAPS, NUM_CLUSTERS, ScoreFormula
from easi3r_ns.core.types import PixelMap
from easi3r_ns.network.backbone import LoadedBackbone
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import PairOutput
from easi3r_ns.network.weights import load_backbone
from easi3r_ns.pipelines import network as pipeline
from easi3r_ns.training.card import describe, read_card, write_card
from easi3r_ns.training.data import invert, move
from easi3r_ns.training.export import export
from easi3r_ns.training.measure import choose, figure, motion, numbers, pairs, paths, run, tables
from easi3r_ns.training.scenes import ClipOptions, render_clip
from easi3r_ns.training.trainer import Trainer
from tests.support.standin import StandIn
from tests.training.test_training import small


class Oracle:
    """Stands in for the network and knows the truth of one batch."""

    def __init__(self, batch, scale: float) -> None:
        forward = torch.stack([batch.points[0], batch.points[1]]).squeeze(1)
        T = torch.cat([batch.T_i_j, invert(batch.T_i_j)])
        self.points_i = scale * forward
        self.points_j = scale * move(T, forward.flip(0))

    def token_grid(self, height, width):
        return height // 8, width // 8

    def encode(self, images):
        return images

    def decode(self, features_i, features_j, grid):
        ones = torch.ones(self.points_i.shape[:3])
        return PairOutput(self.points_i, ones, self.points_j, ones, None)


def first_pair(kind):
    return next(pairs._pairs(kind, "cpu"))[1]


@pytest.fixture(scope="module")
def wide():
    return first_pair("wide")


@pytest.fixture(scope="module")
def trivial():
    return pairs.mean_map("cpu", scenes=4)


def test_a_perfect_network_has_no_errors(wide, trivial):
    row = pairs.measure_pair(Oracle(wide, scale=0.3), wide, trivial)
    assert max(row.points_1, row.points_2, row.depth) < 1e-4
    assert row.rotation < 0.01 and row.translation < 0.1 and row.focal < 1e-3
    assert row.rotation_pnp < 0.05 and row.translation_pnp < 0.5
    assert row.rotation_trivial > 1 and row.points_2_trivial > row.points_1_trivial > 0.05
    assert row.focal_both < 1e-3
    stretched = Oracle(wide, scale=0.3)
    stretched.points_i = stretched.points_i * torch.tensor([1, 1, 1.21]) ** torch.arange(2).view(2, 1, 1, 1)
    row = pairs.measure_pair(stretched, wide, trivial)
    assert row.focal < 1e-3 and row.focal_both == pytest.approx(0.1, rel=0.01)
    crooked = Oracle(wide, scale=0.3)
    crooked.points_j = crooked.points_j * 1.3
    assert pairs.measure_pair(crooked, wide, trivial).points_2 > 0.05


def test_pose_by_pnp_is_the_mean_of_what_both_orders_say(wide):
    oracle = Oracle(wide, scale=1.0)
    out = oracle.decode(None, None, None)
    true = wide.T_i_j[0]
    truth = torch.nn.functional.normalize(true[:3, 3], dim=0)
    torch.testing.assert_close(pairs.pose_by_pnp(out)[:3, :3], true[:3, :3], atol=1e-3, rtol=0)
    turn = torch.eye(3)
    turn[:2, :2] = torch.tensor([[0.995, -0.0998], [0.0998, 0.995]])
    crooked = replace(out, points_j=torch.cat([out.points_j[:1] @ turn.T, out.points_j[1:]]))
    assert pairs._angle_of(pairs.pose_by_pnp(crooked)[:3, :3] @ true[:3, :3].T) == pytest.approx(5.73 / 2, abs=0.1)
    lost = replace(out, points_j=torch.cat([torch.zeros_like(out.points_j[:1]), out.points_j[1:]]))
    assert pairs._angle_between(pairs.pose_by_pnp(lost)[:3, 3], truth) < 1, "the other order alone"
    nothing = replace(out, points_j=torch.zeros_like(out.points_j))
    assert torch.equal(pairs.pose_by_pnp(nothing), torch.eye(4))


def test_the_trivial_rivals_are_what_their_names_say(wide, trivial):
    blind = Oracle(wide, scale=1.0)
    blind.points_i = blind.points_j = trivial.expand(2, -1, -1, -1)
    row = pairs.measure_pair(blind, wide, trivial)
    assert row.rotation == pytest.approx(row.rotation_trivial, abs=1e-2), "equal maps: no rotation"
    assert (row.points_1, row.points_2, row.depth) == pytest.approx(
        (row.points_1_trivial, row.points_2_trivial, row.depth_trivial), rel=1e-4
    )
    assert float(trivial.norm(dim=-1).mean()) == pytest.approx(1, rel=0.02)


def test_the_two_sets_are_what_their_titles_say():
    wide, clip = ([batch for _, batch in _take(pairs._pairs(kind, "cpu"), 8)] for kind in ("wide", "clip"))

    def turn_and_baseline(batch):
        depth = batch.points[:, 0, ..., 2].median()
        return pairs._angle_of(batch.T_i_j[0, :3, :3]), float(batch.T_i_j[0, :3, 3].norm() / depth)

    turns, baselines = (np.median([turn_and_baseline(b)[k] for b in wide]) for k in (0, 1))
    small_turns, short = (np.median([turn_and_baseline(b)[k] for b in clip]) for k in (0, 1))
    assert turns > 8 > small_turns and baselines > 2 * short
    again = first_pair("clip")
    assert torch.equal(again.images, clip[0].images), "the same pairs for every network"


def _take(stream, count):
    return [next(stream) for _ in range(count)]


def row_of(scene: int, **values: float) -> pairs.PairRow:
    return pairs.PairRow(**(dict.fromkeys(pairs.PairRow.__dataclass_fields__, 1.0) | values | {"scene": scene}))


def test_summary_of_pairs():
    rows = [
        row_of(s, rotation=s, translation=10.0 * s, baseline=0.1 * s, focal_trivial=7.0)
        for s in range(5)
        for _ in range(2)
    ]
    table = pairs.summarise(rows, "wide")
    assert (table["pairs"], table["scenes"], table["long_baselines"]) == (10, 5, 6)
    assert table["rows"]["rotation"]["value"] == 2 and table["rows"]["translation"]["value"] == 20
    assert table["rows"]["translation_long"]["value"] == 30
    assert table["rows"]["focal_both"]["trivial"] == 7 and table["rows"]["points_2"]["trivial"] == 1
    low, high = table["rows"]["rotation"]["interval"]
    assert low < 2 < high
    lines = tables.pair_lines(table)
    assert "Wide pairs" in lines[0] and any(line.startswith("| rotation (deg) | 2.00 [") for line in lines)
    none_long = pairs.summarise([row_of(0, baseline=0.1)], "clip")
    assert none_long["rows"]["translation_long"]["value"] is None
    assert "| - |" in "\n".join(tables.pair_lines(none_long))


def test_intervals_resample_scenes():
    rs = np.random.RandomState(0)
    scenes = rs.normal(size=40)
    alone = numbers.estimate([np.array([s]) for s in scenes], np.mean)
    repeated = numbers.estimate([np.full(50, s) for s in scenes], np.mean)
    assert alone.value == pytest.approx(scenes.mean())
    assert list(vars(repeated).values()) == pytest.approx(list(vars(alone).values())), "copies are no new knowledge"
    error = 1.96 * scenes.std() / np.sqrt(40)
    assert (alone.high - alone.low) / 2 == pytest.approx(error, rel=0.15)
    assert numbers.estimate([np.array([np.nan])]).to_json() == {"value": None, "interval": [None, None]}
    assert numbers.estimate([np.array([1.0, np.nan]), np.array([3.0])], np.mean).value == 2


def test_area_under_curve():
    rs = np.random.RandomState(0)
    score, truth = rs.randint(0, 6, 60), rs.uniform(size=60) < 0.3
    wins = [(p > n) + 0.5 * (p == n) for p in score[truth] for n in score[~truth]]
    assert numbers.area_under_curve(score, truth) == pytest.approx(np.mean(wins))
    assert np.isnan(numbers.area_under_curve(score, np.zeros(60, dtype=bool)))


def test_average_precision():
    from sklearn.metrics import average_precision_score

    rs = np.random.RandomState(1)
    score, truth = rs.randint(0, 6, 80) / 5, rs.uniform(size=80) < 0.3
    assert numbers.average_precision(score, truth) == pytest.approx(average_precision_score(truth, score))
    assert numbers.average_precision(np.zeros(80), truth) == pytest.approx(truth.mean()), "a constant: the prevalence"
    assert np.isnan(numbers.average_precision(score, np.zeros(80, dtype=bool)))


def observation(seed: int, moving: bool) -> motion.Observation:
    """``mean_ref`` shows objects whether they move or not; ``std_src`` shows motion, better when it is centred."""
    rs = np.random.RandomState(seed)
    truth = rs.uniform(size=(4, 6, 8)) < 0.2
    fused = {name: rs.uniform(size=truth.shape) for name in MAPS}
    fused["mean_ref"] = 0.9 * truth + 0.1 * fused["mean_ref"]
    centred = dict(fused)
    fused["std_src"] = (0.35 * truth * moving + fused["std_src"]) / 1.35
    centred["std_src"] = (0.8 * truth * moving + centred["std_src"]) / 1.8
    tokens = motion.Tokens(np.zeros((*truth.shape, 1), dtype=np.float32), rs.uniform(size=truth.shape))
    formulas = itertools.product((1, *choose.CLUSTERS, NUM_CLUSTERS), (1, choose.CLUSTERINGS))
    tokens._known.update(dict.fromkeys(formulas, np.arange(truth.size).reshape(1, *truth.shape)))
    pixels = truth.repeat(8, 1).repeat(8, 2)
    residual = rs.uniform(size=truth.shape).astype(np.float32)
    variants = {(False, 0, False): fused, (True, 0, False): centred}
    return motion.Observation(variants, residual, tokens, truth, pixels)


@pytest.fixture(scope="module")
def observed():
    return [[observation(seed, moving) for seed in range(3)] for moving in (True, False)]


def test_the_formula_that_shows_motion_is_chosen_not_the_one_that_shows_objects(observed):
    choice = choose.choose_formula(*observed, patch=8)
    assert choice.formula.num_clusters in choose.CLUSTERS and choice.formula.clusterings == choose.CLUSTERINGS
    assert choice.formula.std_src == 1 and choice.formula.centred and choice.formula.mean_ref == 0
    assert choice.auc > 0.8 and choice.auc_twin < 0.65 and choice.jm > 0.3
    assert choose.Choice(ScoreFormula(), 0.8, 0.3).gap == pytest.approx(0.3), "a twin below chance adds nothing"
    assert choose.Choice(ScoreFormula(), 0.9, 0.8).gap == pytest.approx(0.1)
    every = choose.formulas(motion.variants_for(16))
    assert len(every) == len(set(every)) == 2 * 8 * 80 + 1, "flow alone is one formula, whatever the variant"
    assert not choice.formula.flow_residual
    assert {formula.first_channel for formula in every} == {0, 8}


@pytest.mark.long
def test_flow_joins_the_formula_where_it_shows_motion():
    groups = [[observation(seed, moving) for seed in range(3)] for moving in (True, False)]
    for seen in groups[0]:  # each is large at some static tokens too, and the other clears these
        attention, flow = np.random.RandomState(9).uniform(size=(2, *seen.truth.shape)) < 0.15
        centred = seen.fused[(True, 0, False)]
        centred["std_src"] = 0.3 * centred["std_ref"] + 0.6 * (seen.truth | attention)
        seen.tokens.flow_residual[:] = 0.3 * seen.tokens.flow_residual + 0.6 * (seen.truth | flow)
    choice = choose.choose_formula(*groups, patch=8)
    assert choice.formula.flow_residual and choice.formula.std_src == 1
    assert {str(gain.simpler).split(",")[0]: gain.exceeds_noise for gain in choice.gains}["flow_residual"]
    rows = motion.score_table(*groups, choice.formula, patch=8)
    attention = f"this card without optical flow: {replace(choice.formula, flow_residual=False)}"
    assert rows[attention]["auc"]["value"] < rows[f"this card: {choice.formula}"]["auc"]["value"]
    alone = rows["optical flow that no motion of the camera explains"]
    assert alone["auc"]["value"] > 0.8 and abs(alone["auc_twin"]["value"] - 0.5) < 0.1
    assert "flow_residual" not in "".join(title for title in rows if not title.startswith("this card:"))


@pytest.mark.long
def test_attention_without_gain_is_rejected():
    """Flow tells all: whatever product of maps has the best masks on these clips has them by chance."""
    groups = [[observation(seed, moving) for seed in range(6)] for moving in (True, False)]
    for seen, moving in zip(groups, (True, False), strict=True):
        for one in seen:
            one.tokens.flow_residual[:] = 0.3 * one.tokens.flow_residual + 0.6 * one.truth * moving
            for maps in one.fused.values():
                maps["std_src"] = maps["mean_src"]
    choice = choose.choose_formula(*groups, patch=8)
    assert choice.formula == replace(choose.FLOW_ALONE, num_clusters=choice.formula.num_clusters)
    assert not any(gain.exceeds_noise for gain in choice.gains if gain.simpler == choose.FLOW_ALONE)
    titles = motion.score_table(*groups, choice.formula, patch=8)
    assert "this card: flow_residual, 8 x" in "".join(titles) and "without optical flow" not in "".join(titles)


def test_the_simplest_formula_that_is_as_good_wins():
    product = ScoreFormula(0, 1, 0, -1, flow_residual=True)
    simpler = choose.simpler_than(product)
    assert len(simpler) == len(set(simpler)) == 6 and choose.FLOW_ALONE in simpler and product not in simpler
    assert choose.simpler_than(ScoreFormula(0, 1, 0, 0)) == [] == choose.simpler_than(choose.FLOW_ALONE)
    assert choose.simpler_than(ScoreFormula(0, 1, 0, 1))[0] == choose.FLOW_ALONE
    two = replace(product, std_ref=0)
    better, noisy, worse = (0.01, 0.02, 0.03, 0.02), (0.1, -0.1, 0.12, -0.05), (-0.1, -0.2, -0.1, -0.1)

    def reached(formula, less):
        overlap = tuple(0.6 - x for x in less)
        return choose.Choice(formula, 0.9, 0.5, float(np.mean(overlap)), overlap)

    def winner(**less):
        given = {"two": two, "one": choose.FLOW_ALONE}
        return choose.simplest(reached(product, (0,) * 4), [reached(given[n], x) for n, x in less.items()])

    assert winner(two=better, one=better).formula == product, "a small gain on every clip exceeds noise"
    assert winner(two=noisy, one=better).formula == two
    assert winner(two=worse, one=noisy).formula == choose.FLOW_ALONE, "the fewest factors, not the best rival"
    found = winner(two=better, one=noisy)
    assert found.formula == choose.FLOW_ALONE and [gain.exceeds_noise for gain in found.gains] == [True, False]
    record = choose.choose_graph({"g": found}, lambda graph: 0.1)[1]
    rows = {"clips": 4, "lengths": [5], "path_clips": 1, "graph": "g", "flow_weights": {}, "flow_weight": 0.3}
    text = "\n".join(tables.choice_lines(rows | {"graphs": record}))
    assert "std_src * (1 - std_ref) * flow_residual | std_src * flow_residual | 0.020 [0.013, 0.028] | yes |" in text
    assert "| flow_residual, 8 x 32 clusters | 0.017 [" in text and text.rstrip().endswith("| no |")
    assert "where that gains no more than noise" in text
    del record["g"]["gains"]  # as on a card that was chosen without the rule
    text = "\n".join(tables.choice_lines(rows | {"graphs": record}))
    assert "noise" not in text and "highest JM; then the number" in text


def test_the_number_of_clusters_is_chosen_too():
    groups = [[observation(seed, moving) for seed in range(3)] for moving in (True, False)]
    for seen in itertools.chain(*groups):
        blurred = (np.arange(seen.truth.size) // 3).reshape(1, *seen.truth.shape)
        others = [count for count in choose.CLUSTERS if count != 16]
        seen.tokens._known.update({(count, choose.CLUSTERINGS): blurred for count in others})
    choice = choose.choose_formula(*groups, patch=8)
    assert choice.formula.num_clusters == 16 and choice.formula.std_src == 1


def test_the_graph_is_chosen_by_its_paths_among_good_scores():
    formula = ScoreFormula()
    graphs = {"a": 0.80, "b": 0.79, "c": 0.70}
    choices = {name: choose.Choice(formula, 0.9, 0.5, jm) for name, jm in graphs.items()}
    errors = {"a": 0.2, "b": 0.1, "c": 0.01}
    graph, record = choose.choose_graph(choices, lambda name: errors[name])
    assert graph == "b" and record["b"]["ate"] == 0.1 and record["c"]["ate"] is None
    assert record["a"]["formula"] == asdict(formula)


def test_the_flow_weight_is_chosen_by_its_paths():
    errors = dict(zip(choose.FLOW_WEIGHTS, (0.09, 0.04, 0.05, 0.06), strict=True))
    weight, record = choose.choose_flow_weight(lambda weight: errors[weight])
    assert weight == choose.FLOW_WEIGHTS[1] and record["0.01"] == 0.09


def test_a_run_follows_the_card_s_flow_weight(clip, monkeypatch):
    standin, seen = network(clip), []

    def stop(*args, config, **kwargs):
        seen.append(config.flow_weight)
        raise AlignmentError("seen enough")

    monkeypatch.setattr(pipeline, "align", stop)
    backbone = LoadedBackbone(standin, replace(standin.info, graph="complete", flow_weight=0.3))
    assert paths.try_run(backbone, clip, "no_masks", "cpu") is None
    standin.encoded = 0
    assert paths.try_run(backbone, clip, "paper_flow", "cpu") is None
    assert seen == [0.3, 0.01], "an explicit weight goes before the card's"


@pytest.mark.long
def test_score_table_knows_its_trivial_answers(observed):
    formula = ScoreFormula(0, 1, 0, 0, centred=True)
    rows = motion.score_table(*observed, formula, patch=8)
    ours, paper = rows[f"this card: {formula}"], rows[f"Easi3R paper: {ScoreFormula()}"]
    assert ours["auc"]["value"] > 0.8 and ours["gap"]["value"] > 0.2 and ours["jm"]["value"] > paper["jm"]["value"]
    assert rows["everything static"]["auc"]["value"] == 0.5 and rows["everything static"]["jm"]["value"] == 0
    objects = rows["mean_ref"]
    assert objects["auc"]["value"] > 0.99 and abs(objects["gap"]["value"]) < 0.05
    assert abs(rows["random"]["auc"]["value"] - 0.5) < 0.1
    for name in MAPS:
        assert rows[name]["auc"]["value"] + rows[f"(1 - {name})"]["auc"]["value"] == pytest.approx(1, abs=2e-3)
    assert rows["ceiling: the true tokens"]["jm"]["value"] == 1
    text = "\n".join(tables.score_lines({"clips": 3, "frames": 4, "prevalence": 0.2, "rows": rows}))
    assert text.count("\n| ") == len(rows) + 1 and "(1 - mean_src)" in text
    assert f"gap of at least 0.2 `{formula}` has the best masks" in text and "so it shows motion" in text
    assert f"a JM of {ours['jm']['value']:.3f}; its gap" in text and "together" not in text
    flow = rows["optical flow that no motion of the camera explains"]
    assert f"explains has a JM of {flow['jm']['value']:.3f} without any attention" in text
    with_flow = replace(formula, flow_residual=True)
    both = motion.score_table(*observed, with_flow, patch=8)
    words = tables.score_lines({"clips": 3, "frames": 4, "prevalence": 0.2, "rows": both})[-1]
    assert words.endswith(f"together (this card) have {both[f'this card: {with_flow}']['jm']['value']:.3f}.")


def network(clip):
    height, width = clip.images.shape[1:3]
    pixel_map = PixelMap((width, height), (width, height), (0, 0, width, height))
    return StandIn(clip, pixel_map, DUSt3RConfig(patch_size=8, image_size=128, enc_embed_dim=64))


@pytest.fixture(scope="module")
def clip():
    return render_clip(5, 5, 48, 64, num_movers=2, options=ClipOptions(fps=2.5))


def test_what_moves_leaves_its_place_in_the_residual(clip):
    maps, tokens = motion.watch(network(clip), clip, ["swin-1-noncyclic", "swin-2-noncyclic"], residual=True)
    assert len(maps.edges) == 14 and (maps.edges[::2] == maps.edges[1::2, ::-1]).all()
    few, all_pairs = (motion.observe(maps, tokens, clip, f"swin-{w}-noncyclic") for w in (1, 2))
    assert numbers.area_under_curve(all_pairs.score(motion.PAPER), all_pairs.truth) > 0.95
    keys = (False, 0, False), (False, 3, False), (True, 0, False), (False, 0, True)
    plain, late, centred, logarithms = (all_pairs.fused[key] for key in keys)
    assert not np.allclose(few.fused[keys[0]]["std_src"], plain["std_src"])
    assert not np.allclose(logarithms["std_src"], plain["std_src"])
    np.testing.assert_array_equal(logarithms["mean_src"], plain["mean_src"])
    assert not np.allclose(centred["mean_src"], plain["mean_src"])
    assert not np.allclose(late["mean_src"], plain["mean_src"])
    once, twice = (replace(motion.PAPER, num_clusters=4, clusterings=n) for n in (1, 2))
    assert tokens.labels(once).shape == (1, 5, 6, 8) and tokens.labels(twice).max() == 3
    assert tokens.labels(twice) is all_pairs.tokens.labels(twice), "computed once"
    np.testing.assert_array_equal(tokens.labels(twice)[:1], tokens.labels(once))
    assert tokens.flow_residual.shape == (5, 6, 8) and 0 <= tokens.flow_residual.min() < tokens.flow_residual.max() <= 1
    assert all_pairs.truth.shape == (5, 6, 8) and all_pairs.pixels.shape == (5, 48, 64)


def test_residual_is_zero_where_nothing_moves():
    rs = torch.Generator().manual_seed(0)
    own = torch.rand(2, 16, 16, 3, generator=rs) + torch.tensor([0.0, 0.0, 2.0])
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.1, 0], [-0.1, 0, 0.2], [0, -0.2, 0]]))
    moved = (1.7 * own @ turn.T + torch.tensor([0.3, 0.1, 0.0])).flip(0)
    out = PairOutput(own, torch.ones(2, 16, 16), moved, torch.ones(2, 16, 16), None)
    np.testing.assert_allclose(motion._residual(out, 8), 0, atol=1e-5)
    moved[0, :8, :8, 0] += 1
    residual = motion._residual(replace(out, points_j=moved), 8)
    assert residual[0, 0, 0] > 0.15 > 0.1 > residual[0, 1, 1] and residual[1].max() < 1e-5


def test_clips_are_named_by_their_seeds():
    seeds = motion.clip_seeds("held_out", 2, 4)
    assert seeds == motion.clip_seeds("held_out", 2, 4) and min(seeds) >= motion.FIRST_CLIP["held_out"]
    first, twin = (motion.make_clip(seeds[0], "held_out", 4, frozen) for frozen in (False, True))
    assert first.moving.any() and not twin.moving.any() and first.mover_ids == twin.mover_ids
    assert first.images.shape == (4, *pairs.SHAPE, 3) and first.times[-1] == 1.5


def test_true_geometry_scores_perfectly(clip):
    standin = network(clip)
    backbone = LoadedBackbone(standin, replace(standin.info, graph="complete"))
    row = paths.run(backbone, clip, "true_masks", "cpu")
    assert row.ate < 0.02 and row.focal < 0.02 and row.depth < 0.03 and row.rpe_rotation < 0.3
    assert row.overlap.mean() == 1, "the true masks come back"
    still = paths.still_camera(clip)
    assert still["ate"] > 0.1 and still["rpe_rotation"] > 1 and row.rpe_translation < 0.1 < still["rpe_translation"]


def test_clips_that_cannot_be_aligned_are_counted(clip, monkeypatch):
    def fail(*args, **kwargs):
        raise AlignmentError("degenerate")

    monkeypatch.setattr(paths, "run", fail)
    assert paths.try_run(None, clip, "card", "cpu") is None
    assert paths.mean_path_error(None, [clip], "complete", "cpu") == paths.still_camera(clip)["ate"]
    good = paths.PathRow(0.1, 0.2, 3.0, 0.05, 0.1, np.array([0.4, 0.6]), 2.0)
    measured = paths.summarise({"card": [good, None, good], "no_masks": [None]}, [clip])
    assert measured["variants"]["card"]["failed"] == 1 and measured["variants"]["card"]["jr"] == 0.5
    text = "\n".join(tables.path_lines(measured | {"clips": 3, "frames": 5, "graph": "complete", "pixels": 3}))
    assert (
        "| 10.0 % [10.0, 10.0] | 20.0 % | 3.00 [3.00, 3.00] |" in text and "| - | - | - | - | - | - | - | 1 |" in text
    )


def test_picture_of_scores(observed, tmp_path):
    images = [np.full((4, 48, 64, 3), 90, dtype=np.uint8)] * 3
    figure.draw_scores(tmp_path / "scores.jpg", images, *observed, ScoreFormula(0, 1, 0, 0), 8)
    assert (tmp_path / "scores.jpg").stat().st_size > 5000
    tinted = figure.red(images[0][0], observed[0][0].pixels[0])
    assert (tinted[observed[0][0].pixels[0]] == tinted[observed[0][0].pixels[0]][0]).all()
    assert (images[0][0] == 90).all() and (tinted[~observed[0][0].pixels[0]] == 90).all()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    config = small(folder / "run", steps=1)
    Trainer(config).run()
    return export(config, folder / "shipped")


@pytest.mark.slow
def test_update_card(shipped):
    formula = ScoreFormula(-1, 0, 0, 1, centred=True)
    wide = pairs.summarise([row_of(0)], "wide")
    stale = {"clips": 1, "frames": 2, "prevalence": 0.1, "rows": {}}
    old = {"score": stale, "clip": pairs.summarise([row_of(0)], "clip")}
    write_card(shipped, read_card(shipped) | {"measured": old})
    card = read_card(shipped)
    card["measured"]["of an earlier version"] = 3
    (shipped / "card.json").write_text(json.dumps(card))
    preferences = {"dynamic_score": asdict(formula), "graph": "swin-2-noncyclic", "flow_weight": 0.3}
    card = run.update_card(shipped, {"wide": wide}, preferences)
    assert set(card["measured"]) == {"clip", "wide"}, "a score of another formula does not stay"
    _, info = load_backbone(str(shipped))
    assert info.graph == "swin-2-noncyclic" and info.flow_weight == 0.3 and info.score == formula
    text = (shipped / "README.md").read_text()
    assert "(1 - mean_src) * std_ref, maps centred" in text and "| focal length, relative | 1.00" in text
    assert describe(card) == text and "optical flow" not in text
    with_flow = describe(card | {"dynamic_score": asdict(replace(formula, flow_residual=True))})
    assert "`flow_residual` is not attention" in with_flow
    alone = describe(card | {"dynamic_score": asdict(choose.FLOW_ALONE)})
    assert "has no attention in it" in alone and "has no attention in it" not in with_flow
    again = run.update_card(shipped, {}, preferences)
    assert again["measured"] == card["measured"]


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="--path-clips 0"):
        run.MeasureConfig("tiny", path_clips=0)
    with pytest.raises(InputError, match="--frames 2"):
        run.MeasureConfig("tiny", frames=2)
    with pytest.raises(CheckpointError, match="no card"):
        read_card(tmp_path)


@pytest.mark.long
def test_the_commands_train_and_measure(tmp_path):
    def command(module: str, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, timeout=600)

    options = (
        "--enc-dim 16 --enc-depth 1 --dec-dim 16 --dec-depth 1 --heads 2 --views 2 --pool-scenes 4 --first-scenes 1"
    )
    command("easi3r_ns.training", "--output-dir", str(tmp_path), "--steps", "3", *options.split())
    folder, results = tmp_path / "export", tmp_path / "results"
    where = ["--results", str(results), "--training-run", str(tmp_path)]
    command("easi3r_ns.training.measure", str(folder), "--quick", "--update-card", *where)
    card = json.loads((folder / "card.json").read_text())
    assert set(card["measured"]) == {"wide", "clip", "choice", "score", "paths"}
    assert card["measured"]["wide"]["pairs"] == 6 and card["graph"] == card["measured"]["choice"]["graph"]
    load_backbone(str(folder))
    text = (results / "README.md").read_text()
    assert "(scores.jpg)" in text and (results / "scores.jpg").exists() and "End to end" in text
