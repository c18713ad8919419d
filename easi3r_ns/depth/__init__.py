"""Depth of what stands still, from cameras that are known: multi-view stereo."""
