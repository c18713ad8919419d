"""What a run will cost, and how much of it may be in memory at once."""
