"""The sections of the report, one file each: a function takes a scene and what was measured of it, and gives values."""
