"""``python -m easi3r_ns.training``: train a small DUSt3R from scratch on rendered scenes; run it again to resume."""

from __future__ import annotations

import tyro

from ..core.usage import own_errors, own_usage_errors
from .config import TrainConfig
from .curve import draw
from .export import export
from .processes import run


def main() -> None:
    """Train, draw the learning curve, export; errors are one line and the exit code of their kind."""
    with own_errors():
        with own_usage_errors():
            config = tyro.cli(TrainConfig, prog="python -m easi3r_ns.training")
        train(config)


def train(config: TrainConfig) -> None:
    """Train, draw the learning curve, export."""
    run(config)
    draw(config.output_dir)
    folder = export(config, config.output_dir / "export")
    print(f"exported to {folder}; measure it with: python -m easi3r_ns.training.measure {folder}")


if __name__ == "__main__":
    main()
