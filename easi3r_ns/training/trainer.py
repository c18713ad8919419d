"""The training loop: state, one step, checkpoints that resume to the same state."""

from __future__ import annotations

import json
import logging
import math
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn

from ..core.errors import CheckpointError, InputError
from ..network.model import DUSt3R
from .config import FINAL, LOW, Stage, TrainConfig
from .data import PairBatch, ScenePool, augment, both_orders, move
from .losses import MatchHead, attention_loss, confidence_loss, guided_head, regression, true_matches
from .precision import mixed_precision

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"


Optimizers = list[torch.optim.Optimizer]


@dataclass
class TrainState:
    """Everything that a checkpoint holds."""

    model: DUSt3R
    match: MatchHead
    ema: dict[str, Tensor]
    optimizers: Optimizers
    generator: torch.Generator
    step: int = 0
    pairs: int = 0
    """Ordered pairs seen."""
    seconds: float = 0.0
    """Time spent in this run, over all its processes."""
    stage: str = "low"
    pool_counts: dict[str, int] = field(default_factory=dict)
    scenes: int = 0
    """Scenes rendered."""
    before: dict | None = None
    """Options and counters of the run whose weights this one began with, and its own ``before``."""


def initialise(model: DUSt3R) -> None:
    """Xavier weights, zero biases, and heads that put every point in front of the camera.

    With a raw z of 1 all points start at z = e - 1: without it, half of them start behind the camera.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight = module.weight
            nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
            nn.init.zeros_(module.bias)
    per_channel = model.config.patch_size**2
    for head in (model.downstream_head1, model.downstream_head2):
        with torch.no_grad():
            head.proj.weight.mul_(0.1)
            head.proj.bias[2 * per_channel : 3 * per_channel] = 1.0


def new_state(config: TrainConfig) -> TrainState:
    """A fresh network at the first stage's resolution."""
    torch.manual_seed(config.seed)
    stage = "low" if config.low_share > 0 else "final"
    model = DUSt3R(config.network(final=stage == "final"))
    initialise(model)
    match = MatchHead(config.enc_dim)
    model, match = model.to(config.device), match.to(config.device)
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(config.seed)
    return TrainState(model, match, ema, make_optimizers(config, model, match), generator, stage=stage)


def make_optimizers(config: TrainConfig, model: DUSt3R, match: nn.Module) -> Optimizers:
    """AdamW, without decay on biases, norms and scalars; with ``--optimizer muon``, Muon for the blocks' matrices."""
    parameters = [*model.parameters(), *match.parameters()]
    blocks = [p for name, p in model.named_parameters() if "_blocks" in name and p.ndim == 2]
    matrices = blocks if config.optimizer == "muon" else []
    taken = {id(p) for p in matrices}
    groups = [
        {"params": [p for p in parameters if p.ndim > 1 and id(p) not in taken], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: Optimizers = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), foreach=True)]
    if matrices:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"--optimizer muon: torch {torch.__version__} has none; use torch 2.9 or --optimizer adamw"
            )
        options = {"weight_decay": config.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.append(torch.optim.Muon(matrices, lr=config.learning_rate, **options))
    return optimizers


def progress(config: TrainConfig, state: TrainState) -> float:
    """Share of the run that is done, in [0, 1]."""
    return min(1.0, state.step / config.steps if config.steps else state.seconds / (60 * config.minutes))


def learning_rate(config: TrainConfig, state: TrainState) -> float:
    """Linear warm-up, then a cosine down to 1 % of the peak."""
    warmup = min(1.0, (state.step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress(config, state))))


class Team:
    """The processes that train together, or one alone; all hold the same weights after every step."""

    def __init__(self) -> None:
        joined = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if joined else 0
        self.size = distributed.get_world_size() if joined else 1

    def separate(self, state: TrainState, seed: int) -> None:
        """Every process but the first draws batches of its own."""
        if self.rank:
            mixed = np.random.SeedSequence([seed, self.rank, state.step]).generate_state(1)[0]
            state.generator.manual_seed(int(mixed))

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace all gradients by their mean over the processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        parts = flat.div_(self.size).split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def agree(self, seconds: float) -> float:
        """The first process's value for all: one clock ends the run and sets the step size."""
        if self.size == 1:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64)
        distributed.broadcast(value, 0)
        return float(value)


class Trainer:
    """Drives one run; ``state`` and the pools are its only mutable parts."""

    def __init__(self, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.clock = clock
        self.state = new_state(config)
        self.pools: dict[str, ScenePool] = {}
        self.team = Team()
        config.output_dir.mkdir(parents=True, exist_ok=True)
        if (config.output_dir / CHECKPOINT).exists():
            self._load()
        elif config.start_from is not None:
            self._begin_with(config.start_from)
        self.team.separate(self.state, config.seed)
        self._open_pools()

    @property
    def stage(self) -> Stage:
        return LOW if self.state.stage == "low" else FINAL

    def run(self, stop: Callable[[TrainState], bool] = lambda state: False) -> TrainState:
        """Train until the budget is spent or ``stop`` says so; always leaves a checkpoint."""
        saved = logged = self.clock()
        while progress(self.config, self.state) < 1 and not stop(self.state):
            begin = self.clock()
            if self.state.stage == "low" and progress(self.config, self.state) >= self.config.low_share:
                self._to_final_stage()
            metrics = self.step()
            now = self.clock()
            self.state.seconds += self.team.agree(now - begin)
            if now - logged > 15:
                logged = now
                self._log(metrics)
            if now - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = self.clock()
        self.save()
        return self.state

    def step(self) -> dict[str, float]:
        """One optimiser step on newly sampled pairs."""
        state, config = self.state, self.config
        shapes = [shape for shape, weight in self.stage.shapes for _ in range(weight)]
        # One shape for all processes: they wait for each other.
        pick = np.random.RandomState([config.seed, state.step]).randint(len(shapes))
        pool = self.pools[_key(shapes[pick])]
        before = pool.count
        pool.grow(config.fresh_scenes if pool.count else config.first_scenes)
        state.scenes += self.team.size * (pool.count - before)
        state.pool_counts[_key(pool.shape)] = pool.count
        # Easy pairs first: the smallest mutual overlap falls from 0.6 to 0.25 over the first stage.
        eased = min(1.0, progress(config, state) / max(config.low_share, 1e-9))
        batch = pool.sample(self.stage.batch_pairs * config.batch_scale, 0.6 - 0.35 * eased, state.generator)
        batch = both_orders(augment(batch, state.generator))
        parameters = [*state.model.parameters(), *state.match.parameters()]
        loss, metrics = self.loss(batch)
        loss.backward()
        self.team.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, state)
            if torch.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.pairs += self.team.size * batch.images.shape[1]
        self._average()
        return {name: float(value) for name, value in metrics.items()} | {
            "loss": float(loss.detach()),
            "gradient": float(norm),
        }

    def loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch whose second half is the first with its views swapped."""
        model, config = self.state.model, self.config
        grid, patch = model.token_grid(*batch.images.shape[-2:]), model.config.patch_size
        half = batch.images.shape[1] // 2
        with mixed_precision(batch.images.device.type, config.bf16), guided_head(model) as looks:
            features_i = model.encode(batch.images[0])
            features_j = torch.cat([features_i[half:], features_i[:half]])  # encoded once, used in both orders
            out = model.decode(features_i, features_j, grid)
        truth = batch.points[0], move(batch.T_i_j, batch.points[1])
        errors = regression((out.points_i, out.points_j), truth)
        regress = confidence_loss(errors, (out.conf_i, out.conf_j), config.confidence_alpha)
        found = true_matches(batch, patch)
        match, hits = self.state.match(features_i, features_j, found.tokens(), found.seen)
        attend, looked = attention_loss(looks, found.weights(), found.seen)
        metrics = {
            "error_i": errors[0].mean().detach(),
            "error_j": errors[1].mean().detach(),
            "match": hits,
            "look": looked,
        }
        return regress + config.match_weight * match + config.attention_weight * attend, metrics

    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        with torch.no_grad():
            averaged = list(self.state.ema.values())
            torch._foreach_lerp_(averaged, list(self.state.model.state_dict().values()), 1 - decay)

    def _to_final_stage(self) -> None:
        """Twice the tokens per side: RoPE steps of half the length keep the positions that attention sees."""
        self.save()
        state = self.state
        model = DUSt3R(self.config.network(final=True)).to(self.config.device)
        model.load_state_dict(state.model.state_dict())
        moments = [optimizer.state_dict() for optimizer in state.optimizers]
        state.model, state.stage = model, "final"
        state.optimizers = make_optimizers(self.config, model, state.match)
        for optimizer, kept in zip(state.optimizers, moments, strict=True):
            optimizer.load_state_dict(kept)
        self._open_pools()
        logger.info("step %d: final resolution", state.step)

    def _open_pools(self) -> None:
        self.pools = {}
        weights = sum(weight for _, weight in self.stage.shapes)
        all_shapes = [_key(shape) for stage in (LOW, FINAL) for shape, _ in stage.shapes]
        for shape, weight in self.stage.shapes:
            key = _key(shape)
            capacity = max(self.config.first_scenes, self.config.pool_scenes * weight // weights)
            source = np.random.SeedSequence([self.config.seed, self.team.rank, all_shapes.index(key)])
            first = int(source.generate_state(1)[0])
            self.pools[key] = ScenePool(shape, capacity, self.config.views, first, self.config.device)
            self.pools[key].restore(self.state.pool_counts.get(key, 0))

    def save(self) -> None:
        """Write the checkpoint atomically; only the first process does."""
        if self.team.rank:
            return
        state = self.state
        payload = {
            "config": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.config).items()},
            "model": state.model.state_dict(),
            "match": state.match.state_dict(),
            "ema": state.ema,
            "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
            "generator": state.generator.get_state(),
            **{name: getattr(state, name) for name in _COUNTERS},
        }
        path = self.config.output_dir / CHECKPOINT
        partial = path.with_suffix(".partial")
        torch.save(payload, partial)
        partial.replace(path)

    def _load(self) -> None:
        payload = read_checkpoint(self.config.output_dir)
        state = self.state
        for name in _COUNTERS:
            setattr(state, name, payload.get(name))
        state.model = DUSt3R(self.config.network(final=state.stage == "final")).to(self.config.device)
        try:
            state.model.load_state_dict(payload["model"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.config.output_dir}: checkpoint of another architecture; use another --output-dir ({error})"
            ) from error
        state.match.load_state_dict(payload["match"])
        state.ema = {name: value.to(self.config.device) for name, value in payload["ema"].items()}
        state.optimizers = make_optimizers(self.config, state.model, state.match)
        if len(payload.get("optimizers", ())) != len(state.optimizers):
            raise CheckpointError(
                f"{self.config.output_dir}: checkpoint of another optimizer; use another --output-dir"
            )
        for optimizer, kept in zip(state.optimizers, payload["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        state.generator.set_state(payload["generator"].cpu())
        logger.info("resumed at step %d", state.step)

    def _begin_with(self, folder: Path) -> None:
        """Start from the averaged weights of another run, and continue its counters and log."""
        payload = read_checkpoint(folder)
        state = self.state
        try:
            state.model.load_state_dict(payload["ema"])
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: checkpoint of another architecture ({error})") from error
        state.match.load_state_dict(payload["match"])
        state.ema = {name: value.to(self.config.device) for name, value in payload["ema"].items()}
        state.pairs, state.scenes = payload["pairs"], payload["scenes"]
        state.before = {name: payload.get(name) for name in ("config", *_COUNTERS)}
        if (folder / METRICS).exists() and not self.team.rank:
            shutil.copyfile(folder / METRICS, self.config.output_dir / METRICS)
        logger.info("starts from %s: %d pairs", folder, state.pairs)

    def _log(self, metrics: dict[str, float]) -> None:
        if self.team.rank:
            return
        state = self.state
        row = {
            "step": state.step,
            "pairs": state.pairs,
            "minutes": state.seconds / 60,
            "stage": state.stage,
            "rate": learning_rate(self.config, state),
            **metrics,
        }
        with (self.config.output_dir / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        logger.info(
            "step %d  %d pairs  %.1f min  %s  loss %.3f  error %.3f / %.3f  match %.2f  look %.2f",
            state.step,
            state.pairs,
            state.seconds / 60,
            state.stage,
            row["loss"],
            row["error_i"],
            row["error_j"],
            row["match"],
            row["look"],
        )


_COUNTERS = ("step", "pairs", "seconds", "stage", "pool_counts", "scenes", "before")


def _key(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def read_checkpoint(output_dir: Path) -> dict:
    """The checkpoint of a run; raises CheckpointError when there is none or it is damaged."""
    path = output_dir / CHECKPOINT
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it to start again") from error
