"""The 4D viewer, and pictures and videos of a scene."""
