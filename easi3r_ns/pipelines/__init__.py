"""Reconstruction of a clip and writing of the dataset, with a network or with multi-view geometry alone."""
