"""From a clip to a dataset, with a network or with geometry alone."""
