"""Forecast of a run's time and memory, and the memory limit that it keeps to."""
