"""From a training checkpoint to the folder that ships: half-precision safetensors, architecture, card."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..core.config import option_words
from ..storage.files import make_folder, write_bytes, write_json
from .card import write_card
from .config import TrainConfig
from .trainer import read_checkpoint

WEIGHTS, CONFIG = "model.safetensors", "config.json"

DEFAULT_SCORE = {"mean_src": 0, "std_src": 1, "mean_ref": 0, "std_ref": 0}
"""Until it is measured: the one map whose sign was the same in every training so far."""
DEFAULT_GRAPH = "swin-3-noncyclic"


def export(config: TrainConfig, folder: Path, name: str = "tiny") -> Path:
    """Write the averaged weights of a run, its architecture and a card without measurements; returns ``folder``.

    The match head is not exported: it serves the training only.
    """
    checkpoint = read_checkpoint(config.output_dir)
    make_folder(folder)
    network = config.network(final=True)
    weights = {key: value.to(torch.float16).contiguous() for key, value in checkpoint["ema"].items()}
    content = save(weights)
    write_bytes(folder / WEIGHTS, content)
    write_json(folder / CONFIG, {**asdict(network), "dpt_layer_dims": list(network.dpt_layer_dims)})
    write_card(
        folder,
        {
            "name": name,
            "licence": "Apache-2.0",
            "description": "A small DUSt3R trained from scratch on rendered scenes: a preview, not a replacement "
            "for the published weights.",
            "sha256": hashlib.sha256(content).hexdigest(),
            "parameters": sum(value.numel() for value in weights.values()),
            "dynamic_score": DEFAULT_SCORE,
            "graph": DEFAULT_GRAPH,
            "training": training_record(checkpoint),
            "limits": [
                "Trained on rendered rooms with boxes, spheres and cylinders only; nothing is claimed on real footage.",
                "128 pixels on the long side, 8-pixel tokens: coarse edges in masks and depth.",
                "Much of its depth is a monocular guess; focal lengths are weak.",
                "From one frame of a hand-held clip to the next its cameras jitter: the motion between neighbours is "
                "not to be trusted, the path over many frames is better (see both tables below).",
                "Its dynamic score was chosen on rendered clips; it is not the formula of the Easi3R paper.",
            ],
        },
    )
    return folder


def training_record(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What the training saw, for the card; counts of pairs and scenes include those of the run that it began with."""
    config = {
        k: v for k, v in checkpoint["config"].items() if k not in ("output_dir", "start_from", "device", "threads")
    }
    before = checkpoint.get("before")
    start = {"before": training_record(before)} if before else {}
    return start | {
        "command": training_command(config) + (" --start-from BEFORE" if before else ""),
        "data": f"{checkpoint['scenes']} rendered static scenes with {config['views']} views each (nothing moves); "
        "texture family 'train'",
        "steps": checkpoint["step"],
        "ordered_pairs": checkpoint["pairs"],
        "minutes": round(checkpoint["seconds"] / 60, 1),
        "stage": checkpoint["stage"],
        "options": config,
    }


def training_command(options: dict[str, Any]) -> str:
    """The command line that asks for these options of :class:`TrainConfig`; defaults are left out."""
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    return " ".join(["python -m easi3r_ns.training --output-dir RUN", *option_words(options, defaults)])
