"""Solvers that minimise the objective of the alignment."""
