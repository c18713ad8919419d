"""Training: exact targets, losses that equal their definition, runs that resume, exports that load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from torch import distributed
from torch.multiprocessing import spawn

from easi3r_ns.core.errors import CheckpointError, InputError
from easi3r_ns.core.score import ScoreFormula
from easi3r_ns.network.model import DUSt3R
from easi3r_ns.network.weights import load_backbone
from easi3r_ns.training.config import TrainConfig
from easi3r_ns.training.curve import draw
from easi3r_ns.training.data import (
    ScenePool,
    augment,
    both_orders,
    camera_points,
    invert,
    look_up,
    move,
    render_views,
)
from easi3r_ns.training.export import export, training_command
from easi3r_ns.training.losses import (
    MatchHead,
    attention_loss,
    confidence_loss,
    guided_head,
    regression,
    true_matches,
)
from easi3r_ns.training.precision import explicit_attention, mixed_precision
from easi3r_ns.training.trainer import CHECKPOINT, METRICS, Trainer, initialise, learning_rate
from tests.support.twins import confidence_loss_naive

SHAPE = (48, 64)


HAS_MUON = hasattr(torch.optim, "Muon")
"""torch 2.9 and newer."""


def small(folder: Path, **changes) -> TrainConfig:
    defaults = {
        "steps": 4,
        "enc_dim": 16,
        "enc_depth": 1,
        "dec_dim": 16,
        "dec_depth": 1,
        "heads": 2,
        "low_share": 0.5,
        "pool_scenes": 4,
        "first_scenes": 1,
        "views": 3,
        "warmup_steps": 2,
        "optimizer": "muon" if HAS_MUON else "adamw",
    }
    return TrainConfig(output_dir=folder, **(defaults | changes))


@pytest.fixture(scope="module")
def pool() -> ScenePool:
    pool = ScenePool(SHAPE, 3, 4, first_seed=0, device="cpu")
    pool.grow(5)  # more than fit: the two oldest are gone
    return pool


@pytest.fixture
def batch(pool):
    return pool.sample(6, 0.3, torch.Generator().manual_seed(0))


def agreement(batch) -> float:
    """Share of view j's points that lie on view i's surface, among those that fall into view i's image."""
    points = move(batch.T_i_j, batch.points[1]).flatten(1, 2)
    depth = batch.points[0][..., 2]
    _, close = look_up(points, depth, batch.focal[0])
    _, inside = look_up(points, depth, batch.focal[0], tolerance=1e9)
    return float(close.sum() / inside.sum())


def test_both_views_see_one_world(batch):
    assert agreement(batch) > 0.8
    wrong = replace(batch, T_i_j=invert(batch.T_i_j))
    assert agreement(wrong) < 0.75 * agreement(batch)


def test_augmentation_keeps_the_geometry(batch):
    generator = torch.Generator().manual_seed(1)
    changed = augment(batch, generator)
    mirrored = (changed.T_i_j - batch.T_i_j).abs().amax((1, 2)) > 1e-6
    assert mirrored.any() and not mirrored.all()
    assert agreement(changed) == pytest.approx(agreement(batch), abs=0.02)
    assert torch.equal(changed.points[:, ~mirrored], batch.points[:, ~mirrored])
    assert changed.images.min() >= -1 and changed.images.max() <= 1
    R = changed.T_i_j[:, :3, :3]
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).expand_as(R), atol=1e-5, rtol=0)
    assert (torch.linalg.det(R) > 0).all()


def test_both_orders_are_the_same_pairs_seen_from_the_other_side(batch):
    double = both_orders(batch)
    assert torch.equal(double.images[0, 6:], batch.images[1]) and torch.equal(double.images[1, 6:], batch.images[0])
    torch.testing.assert_close(double.T_i_j[6:] @ batch.T_i_j, torch.eye(4).expand(6, 4, 4), atol=1e-5, rtol=0)


def test_pool_keeps_the_newest_scenes_and_restores_itself(pool):
    again = ScenePool(SHAPE, 3, 4, first_seed=0, device="cpu")
    again.restore(pool.count)
    generator = torch.Generator()
    first, second = (p.sample(8, 0.2, generator.manual_seed(2)) for p in (pool, again))
    assert torch.equal(first.images, second.images) and torch.equal(first.T_i_j, second.T_i_j)
    newest = render_views([4], SHAPE, 4, "train", "cpu")
    assert torch.equal(pool._data.images[4 % 3], newest.images[0])


def test_overlap_is_the_share_of_seen_pixels(pool):
    data = pool._data
    for s, a, b in ((0, 0, 1), (1, 2, 3), (2, 1, 0)):
        points = camera_points(data.depth[s, a], data.focal[s, a])
        relative = invert(data.T_world_cam[s, b]) @ data.T_world_cam[s, a]
        seen = look_up(move(relative, points).flatten(0, 1)[None], data.depth[s, b][None], data.focal[s, b][None])[1]
        assert float(seen.float().mean()) == pytest.approx(float(data.overlap[s, a, b]), abs=0.08)
    assert (torch.diagonal(data.overlap, dim1=1, dim2=2) > 0.99).all()


def test_sampled_pairs_overlap_and_are_never_one_view_twice(pool):
    batch = pool.sample(50, 0.3, torch.Generator().manual_seed(0))
    assert (batch.T_i_j - torch.eye(4)).abs().amax((1, 2)).min() > 1e-4


def test_confidence_loss_equals_its_definition():
    rs = torch.Generator().manual_seed(0)
    shape = (2, 3, 4, 3)
    predicted, truth = (tuple(torch.randn(shape, generator=rs) + 2 for _ in range(2)) for _ in range(2))
    confidence = tuple(1 + torch.rand(shape[:3], generator=rs) for _ in range(2))
    fast = confidence_loss(regression(predicted, truth), confidence, alpha=0.2)
    assert float(fast) == pytest.approx(confidence_loss_naive(predicted, confidence, truth, 0.2), rel=1e-4)


def test_regression_ignores_the_scale_and_nothing_else():
    truth = tuple(torch.rand(1, 4, 5, 3) + 1 for _ in range(2))
    scaled = tuple(3.7 * x for x in truth)
    assert max(float(e.max()) for e in regression(scaled, truth)) < 1e-5
    one_scaled = truth[0], 3.7 * truth[1]
    assert float(regression(one_scaled, truth)[1].mean()) > 0.1


def test_token_matches_of_a_view_with_itself_are_itself(batch):
    same = replace(
        batch,
        points=batch.points[:1].expand(2, -1, -1, -1, -1),
        focal=batch.focal[:1].expand(2, -1),
        T_i_j=torch.eye(4).expand(6, 4, 4),
    )
    found = true_matches(same, 8)
    assert found.seen.all() and (found.tokens() == torch.arange(48)).all()


def test_token_matches_show_the_same_surface(batch):
    found = true_matches(batch, 8)
    match, seen = found.tokens(), found.seen
    centres = move(batch.T_i_j, batch.points[1])[:, 4::8, 4::8].flatten(1, 2)
    own = batch.points[0][:, 4::8, 4::8].flatten(1, 2)
    matched = centres.gather(1, match[..., None].expand(-1, -1, 3))
    apart = (matched - own).norm(dim=-1) / own.norm(dim=-1)
    assert 0.1 < seen.float().mean() < 1 and float(apart[seen].median()) < 0.1 < float(apart[~seen].median())


def test_targets_of_the_attention_lie_around_the_matching_pixel(batch):
    found = true_matches(batch, 8)
    target, seen = found.weights(), found.seen
    torch.testing.assert_close(target.sum(-1), torch.ones_like(target.sum(-1)))
    assert ((target > 0).sum(-1) <= 4).all()
    rows, columns = torch.arange(48) // 8 * 8 + 3.5, torch.arange(48) % 8 * 8 + 3.5
    place = torch.stack([target @ rows, target @ columns], dim=-1)
    centres = batch.points[0][:, 4::8, 4::8]
    moved = move(invert(batch.T_i_j), centres).flatten(1, 2)
    exact = moved[..., [1, 0]] / moved[..., 2:] * batch.focal[1][:, None, None] + torch.tensor([23.5, 31.5])
    inner = seen & (exact > 4).all(-1) & (exact[..., 0] < 43) & (exact[..., 1] < 59)
    assert inner.sum() > 50
    assert float((place - exact)[inner].abs().max()) <= 0.51, "to the nearest pixel"


def test_attention_loss_is_small_where_heads_look_at_the_target_and_knows_the_direction():
    target, seen = torch.eye(12)[torch.stack([torch.randperm(12) for _ in range(4)])], torch.ones(4, 12).bool()
    other = torch.cat([target[2:], target[:2]])
    q = torch.eye(12).expand(4, 12, 12) * 12

    def looks(goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return q, 12 * goal.transpose(1, 2)  # q k^T is large where the target is 1

    right, hits = attention_loss([looks(target), looks(other)], target, seen)
    wrong, _ = attention_loss([looks(other), looks(target)], target, seen)
    assert hits == 1 and float(right) < 1e-3 < float(wrong)
    assert torch.isfinite(attention_loss([looks(target)], target, ~seen)[0])
    assert attention_loss([], target, seen)[0] == 0


def test_listening_to_a_head_changes_nothing(tmp_path):
    model = DUSt3R(small(tmp_path, dec_depth=3).network())
    features, grid = torch.randn(2, 48, 16), (6, 8)
    plain = model.decode(features, features.flip(0), grid)
    with guided_head(model) as looks:
        heard = model.decode(features, features.flip(0), grid)
    assert len(looks) == 4 and looks[0][0].shape == (2, 48, 8), "two decoders, all layers but the last"
    assert torch.equal(plain.points_j, heard.points_j)
    model.decode(features, features.flip(0), grid)
    assert len(looks) == 4


@pytest.mark.slow
def test_the_guided_head_learns_to_look_at_the_matching_token(tmp_path):
    options = {"steps": 30, "low_share": 1.0, "fresh_scenes": 0, "pool_scenes": 1, "learning_rate": 3e-3}
    hits = {}
    for weight in (0.0, 2.0):
        config = small(tmp_path / str(weight), dec_depth=2, attention_weight=weight, match_weight=0.0, **options)
        trainer = Trainer(config)
        looked = [trainer.step()["look"] for _ in range(30)]
        hits[weight] = np.mean(looked[-8:])
    assert hits[2.0] > hits[0.0] + 0.05


def test_match_head_prefers_the_true_token():
    head = MatchHead(16)
    tokens = torch.randn(2, 12, 16)
    match = torch.stack([torch.randperm(12) for _ in range(2)])
    shuffled = torch.empty_like(tokens).scatter_(1, match[..., None].expand_as(tokens), tokens)
    seen = torch.ones(2, 12, dtype=torch.bool)
    right, hits = head(tokens, shuffled, match, seen)
    wrong, _ = head(tokens, shuffled, match.roll(1, dims=1), seen)
    assert hits == 1 and right < wrong
    assert torch.isfinite(head(tokens, shuffled, match, ~seen)[0])


def test_fresh_network_puts_every_point_in_front_of_the_camera(tmp_path):
    config = small(tmp_path)
    torch.manual_seed(0)
    model = DUSt3R(config.network())
    initialise(model)
    features = model.encode(torch.rand(2, 3, 48, 64) * 2 - 1)
    out = model.decode(features, features.flip(0), model.token_grid(48, 64))
    assert (out.points_i[..., 2] > 0.5).all() and (out.points_j[..., 2] > 0.5).all()


def test_explicit_attention_equals_the_fused_one():
    q, k, v = torch.randn(3, 2, 4, 7, 8)
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(explicit_attention(q, k, v), fused, atol=1e-5, rtol=1e-5)
    with mixed_precision("cpu", True):
        half = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), fused, atol=0.05, rtol=0.05)
    with mixed_precision("cpu", False):
        assert torch.equal(torch.nn.functional.scaled_dot_product_attention(q, k, v), fused)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = Trainer(small(tmp_path / "whole")).run()
    for stop_at in (1, 3, 99):
        parts = Trainer(small(tmp_path / "parts")).run(stop=lambda state, n=stop_at: state.step >= n)
    assert whole.step == parts.step == 4 and whole.stage == parts.stage == "final"
    assert (whole.pairs, whole.pool_counts, whole.scenes) == (parts.pairs, parts.pool_counts, parts.scenes)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(parts.ema[name], whole.ema[name], atol=1e-6, rtol=1e-5)


def _train_and_leave_a_trace(rank: int, config: TrainConfig, meeting_point: Path) -> None:
    distributed.init_process_group("gloo", init_method=meeting_point.as_uri(), rank=rank, world_size=2)
    trainer = Trainer(config)
    first_draw = torch.rand(1, generator=trainer.state.generator).item()
    state = trainer.run()
    torch.save(
        {"weights": state.model.state_dict(), "first": first_draw, "pairs": state.pairs},
        config.output_dir / f"trace{rank}",
    )
    distributed.destroy_process_group()


@pytest.mark.long
def test_processes_train_one_network_on_different_pairs(tmp_path):
    config = small(tmp_path / "run", steps=2, low_share=1.0, processes=2)
    spawn(_train_and_leave_a_trace, (config, tmp_path / "meet"), nprocs=2)
    first, second = (torch.load(config.output_dir / f"trace{rank}", weights_only=True) for rank in range(2))
    alone = Trainer(small(tmp_path / "alone", steps=2, low_share=1.0)).run()
    assert first["first"] != second["first"]
    assert first["pairs"] == second["pairs"] == 2 * alone.pairs
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert not torch.equal(first["weights"]["enc_norm.weight"], alone.model.state_dict()["enc_norm.weight"])


@pytest.mark.parametrize(
    "optimizer", [pytest.param("muon", marks=pytest.mark.skipif(not HAS_MUON, reason="needs torch 2.9")), "adamw"]
)
def test_training_lowers_the_loss(tmp_path, optimizer):
    config = small(
        tmp_path, optimizer=optimizer, steps=24, low_share=1.0, fresh_scenes=0, pool_scenes=1, learning_rate=3e-3
    )
    trainer = Trainer(config)
    for pool in trainer.pools.values():
        pool.grow(1)
    generator = torch.Generator().manual_seed(5)
    batches = [both_orders(pool.sample(8, 0.3, generator)) for pool in trainer.pools.values()]

    def mean_loss() -> float:
        with torch.no_grad():
            return float(np.mean([float(trainer.loss(batch)[0]) for batch in batches]))

    before = mean_loss()
    for _ in range(24):
        trainer.step()
    assert mean_loss() < 0.85 * before, "on the same pairs: others are harder or easier by more than that"


def test_an_old_torch_without_muon_is_named(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(InputError, match="--optimizer adamw"):
        Trainer(small(tmp_path, optimizer="muon"))


def test_the_change_of_resolution_keeps_weights_and_moments(tmp_path):
    trainer = Trainer(small(tmp_path))
    trainer.step()
    before = {name: value.clone() for name, value in trainer.state.model.state_dict().items()}

    def moments() -> list[torch.Tensor]:
        states = [s for optimizer in trainer.state.optimizers for s in optimizer.state_dict()["state"].values()]
        return [value.clone() for s in states for name, value in sorted(s.items()) if name != "step"]

    kept = moments()
    trainer._to_final_stage()
    assert trainer.state.model.config.rope_stretch == 0.5 and set(trainer.pools) == {
        "96x128",
        "72x128",
        "128x96",
        "128x72",
    }
    assert all(torch.equal(before[name], value) for name, value in trainer.state.model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(kept, moments(), strict=True))


def test_learning_rate_rises_and_falls(tmp_path):
    trainer = Trainer(small(tmp_path, steps=100, warmup_steps=10))
    rates = []
    for step in range(100):
        trainer.state.step = step
        rates.append(learning_rate(trainer.config, trainer.state))
    assert rates.index(max(rates)) in range(8, 11) and rates[-1] < 0.02 * max(rates) and rates[0] < 0.2 * max(rates)


def test_export_loads_and_computes_what_was_averaged(tmp_path):
    config = small(tmp_path / "run")
    state = Trainer(config).run()
    folder = export(config, tmp_path / "shipped")
    model, info = load_backbone(str(folder))
    assert info.licence == "Apache-2.0" and not info.non_commercial and info.graph
    assert info.score == ScoreFormula(0, 1, 0, 0)
    assert not any("match" in name for name in model.state_dict())
    average = DUSt3R(config.network())
    average.load_state_dict(state.ema)
    images = torch.rand(1, 3, 72, 128) * 2 - 1
    torch.testing.assert_close(model.encode(images), average.encode(images), atol=0.02, rtol=0.02)
    card = json.loads((folder / "card.json").read_text())
    assert card["training"]["ordered_pairs"] == state.pairs and str(tmp_path) not in json.dumps(card)


def test_the_card_names_the_command_that_trains_such_a_network(tmp_path):
    config = small(tmp_path, bf16=True)
    options = {k: v for k, v in vars(config).items() if k not in ("output_dir", "device", "threads")}
    command = training_command(options)
    words = command.split()
    assert words[:3] == ["python", "-m", "easi3r_ns.training"] and "--bf16" in words and "--heads 2" in command
    assert "weight-decay" not in command, "defaults go without saying"
    words[words.index("RUN")] = str(tmp_path)
    assert tyro.cli(TrainConfig, args=words[3:]) == config


def test_a_run_can_begin_with_the_weights_of_another(tmp_path):
    source = Trainer(small(tmp_path / "first", optimizer="adamw")).run()
    config = small(tmp_path / "second", start_from=tmp_path / "first", low_share=0.0, seed=1)
    trainer = Trainer(config)
    for name, value in trainer.state.model.state_dict().items():
        assert torch.equal(value, source.ema[name]), name
    assert trainer.state.pairs == source.pairs and trainer.state.step == 0 and trainer.state.stage == "final"
    state = Trainer(config).run()
    assert state.pairs > source.pairs
    shipped = export(config, tmp_path / "shipped")
    card = json.loads((shipped / "card.json").read_text())
    assert card["training"]["before"]["ordered_pairs"] == source.pairs and str(tmp_path) not in json.dumps(card)
    assert "--start-from BEFORE" in card["training"]["command"]
    told = (shipped / "README.md").read_text()
    assert told.index("--optimizer adamw") < told.index("--start-from BEFORE"), "in the order of the runs"
    with pytest.raises(CheckpointError, match="another architecture"):
        Trainer(small(tmp_path / "third", start_from=tmp_path / "first", enc_dim=32))
    with pytest.raises(CheckpointError, match="another optimizer"):
        Trainer(replace(config, optimizer="adamw"))


def test_damaged_or_foreign_checkpoints_are_refused(tmp_path):
    Trainer(small(tmp_path, steps=1)).run()
    with pytest.raises(CheckpointError, match="another architecture"):
        Trainer(small(tmp_path, steps=1, enc_dim=32))
    (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trainer(small(tmp_path, steps=1))
    with pytest.raises(InputError, match="low-share"):
        small(tmp_path, low_share=1.5)
    with pytest.raises(InputError, match="CPU only"):
        small(tmp_path, processes=2, device="cuda")


def test_learning_curve_is_drawn(tmp_path):
    assert draw(tmp_path) is None
    rows = [
        {"pairs": 16 * n, "stage": "low" if n < 9 else "final", "error_i": 1 / n, "error_j": 2 / n, "match": 0.5}
        | ({"look": 0.1 * n} if n > 12 else {})
        for n in range(1, 20)
    ]
    (tmp_path / METRICS).write_text("\n".join(json.dumps(row) for row in rows))
    assert draw(tmp_path).stat().st_size > 5000
