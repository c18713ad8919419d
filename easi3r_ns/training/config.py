"""Options of a training run. A field's docstring is its help text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.bounds import check_bounds
from ..core.errors import InputError
from ..network.config import DUSt3RConfig

Shape = tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum: image shapes (height, width), each with its share of the batches."""

    shapes: tuple[tuple[Shape, int], ...]
    batch_pairs: int
    """Unordered pairs per step; both orders are decoded."""


LOW = Stage((((48, 64), 5), ((40, 64), 3), ((64, 48), 2)), batch_pairs=8)
FINAL = Stage((((96, 128), 9), ((72, 128), 7), ((128, 96), 2), ((128, 72), 2)), batch_pairs=4)


_BOUNDS: dict[str, tuple[float, float]] = {
    "minutes": (0, 1e6),
    "steps": (0, 10**9),
    "threads": (1, 1024),
    "processes": (1, 256),
    "seed": (0, 2**32 - 1),
    "enc_dim": (4, 8192),
    "enc_depth": (1, 256),
    "dec_dim": (4, 8192),
    "dec_depth": (1, 256),
    "heads": (1, 256),
    "low_share": (0, 1),
    "batch_scale": (1, 4096),
    "pool_scenes": (1, 1_000_000),
    "first_scenes": (1, 1_000_000),
    "fresh_scenes": (0, 10_000),
    "views": (2, 1000),
    "learning_rate": (0, 10),
    "warmup_steps": (0, 10**9),
    "weight_decay": (0, 10),
    "ema_decay": (0, 1),
    "confidence_alpha": (0, 1e6),
    "match_weight": (0, 1e6),
    "attention_weight": (0, 1e6),
    "checkpoint_minutes": (0, 1e6),
}
"""Least and largest value of every number."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a small DUSt3R from scratch on rendered static scenes. The same command resumes an interrupted run."""

    output_dir: Path
    """Checkpoints, log, learning curve and the exported network go here."""
    minutes: float = 60.0
    """Length of the run in minutes of this process (interruptions do not count)."""
    steps: int = 0
    """Length of the run in steps instead of minutes (0: use --minutes)."""
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    """Where to render and train."""
    threads: int = 1
    """CPU threads per process."""
    processes: int = 1
    """Processes on this machine that render and decode pairs of their own and average their gradients: on the CPU, one
    per core is faster than threads."""
    seed: int = 0
    """Seed of the initial weights, the batches and the first training scene."""
    start_from: Path | None = None
    """Begin with the weights of this other run (its --output-dir) instead of random ones. Give --low-share 0 to stay
    at the final resolution, and another --seed for other scenes."""
    enc_dim: int = 128
    """Width of the encoder."""
    enc_depth: int = 6
    """Blocks of the encoder."""
    dec_dim: int = 128
    """Width of the decoders."""
    dec_depth: int = 4
    """Blocks of each decoder."""
    heads: int = 4
    """Attention heads everywhere."""
    low_share: float = 0.4
    """Share of the run at low resolution (64 pixels on the long side); the rest runs at 128."""
    batch_scale: int = 1
    """Multiplies the pairs per step and process (8 at low, 4 at final resolution); give 16 or more on a GPU."""
    pool_scenes: int = 768
    """Scenes kept in memory; a new one replaces the oldest."""
    first_scenes: int = 64
    """Scenes rendered before the first step of a resolution."""
    fresh_scenes: int = 1
    """New scenes per step."""
    views: int = 6
    """Views per scene."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Optimizer of the blocks' matrices: muon orthogonalises their steps. All else is trained by AdamW."""
    learning_rate: float = 1e-3
    """Peak step size."""
    warmup_steps: int = 300
    """Steps over which the step size rises."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are what is exported."""
    confidence_alpha: float = 1.0
    """Weight of the confidence's logarithm. The best confidence is this over the point error, and 1 is the least that
    the network can say: with DUSt3R's 0.2 a small network, whose error is about as large, says 1 almost everywhere."""
    match_weight: float = 0.2
    """Weight of the auxiliary correspondence loss on encoder tokens."""
    attention_weight: float = 0.2
    """Weight of the auxiliary loss that trains one head per decoder layer to attend to the token of the other view that
    shows the same."""
    checkpoint_minutes: float = 4.0
    """Minutes between checkpoints."""
    bf16: bool = False
    """Compute the network in bfloat16 (GPUs, and CPUs with AVX512-BF16 or AMX)."""

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            check_bounds(f"--{name.replace('_', '-')}", getattr(self, name), low, high)
        if self.minutes == 0 and self.steps == 0:
            raise InputError("--minutes 0 --steps 0: one of them must be positive")
        if self.processes > 1 and self.device != "cpu":
            raise InputError(f"--processes {self.processes} --device {self.device}: several processes share a CPU only")
        for name in ("enc_dim", "dec_dim"):
            if getattr(self, name) % (4 * self.heads):
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)} --heads {self.heads}: give a width that four "
                    "times the heads divide"
                )

    def network(self, final: bool = True) -> DUSt3RConfig:
        """Architecture; the final stage has twice the tokens per side, so RoPE steps are half as long."""
        return DUSt3RConfig(
            patch_size=8,
            enc_embed_dim=self.enc_dim,
            enc_depth=self.enc_depth,
            enc_num_heads=self.heads,
            dec_embed_dim=self.dec_dim,
            dec_depth=self.dec_depth,
            dec_num_heads=self.heads,
            head_type="linear",
            image_size=128,
            absolute_position=True,
            rope_stretch=0.5 if final else 1.0,
        )
