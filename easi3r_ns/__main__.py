"""``python -m easi3r_ns``: the same as ``easi3r``."""

from .cli.main import main

main()
