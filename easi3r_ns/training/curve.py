"""The learning curve of a run as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .trainer import METRICS


def read_metrics(output_dir: Path) -> list[dict]:
    """Rows of the metrics log, oldest first."""
    path = output_dir / METRICS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def draw(output_dir: Path, path: Path | None = None) -> Path | None:
    """Write the learning curve to ``path`` (default: beside the metrics); None when there are no metrics yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(output_dir)
    if not rows:
        return None
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axis, names in ((left, ("error_i", "error_j")), (right, ("match", "look"))):
        for name in names:
            told = [row for row in rows if name in row]
            if not told:
                continue
            pairs, values = (np.array([row[key] for row in told]) for key in ("pairs", name))
            pairs = pairs / 1000
            window = min(len(values), max(1, len(values) // 20))
            smooth = np.convolve(values, np.ones(window) / window, "valid")
            dots = axis.plot(pairs, values, ".", markersize=2, alpha=0.3)[0]
            axis.plot(pairs[window - 1 :], smooth, label=name, color=dots.get_color())
        axis.set_xlabel("thousand ordered pairs seen")
        axis.legend()
        final = [row["pairs"] / 1000 for row in rows if row["stage"] == "final"]
        if final:
            axis.axvline(final[0], color="grey", linestyle=":")
    left.set_ylabel("point error / mean distance")
    left.set_ylim(bottom=0)
    right.set_ylabel("true token matched (match) or looked at (look)")
    path = path or output_dir / "learning_curve.png"
    figure.savefig(path, dpi=110)
    return path
