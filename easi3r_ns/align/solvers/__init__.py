"""Minimisers of the alignment objective."""
