"""Scene -> other people's formats: one file a format."""
