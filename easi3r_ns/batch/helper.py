"""The process that aligns windows of a clip which another worker reconstructs: ``python -m easi3r_ns.batch.helper``.

It reads the folder on its input, and ends when nothing is left to do there, or the process that started it is gone.
"""

from __future__ import annotations

from pathlib import Path

from .runner import read_order


def main() -> None:
    """Read an order from standard input and do it."""
    folder = Path(read_order()["folder"])
    from ..align.long.spread import help_with

    print(f"{help_with(folder)} windows aligned", flush=True)


if __name__ == "__main__":
    main()
