"""Values that travel between the stages, and the mathematics that all of them share."""
