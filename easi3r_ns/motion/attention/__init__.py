"""From cross-attention to masks (Easi3R, arXiv:2503.24391, section 3.2)."""
