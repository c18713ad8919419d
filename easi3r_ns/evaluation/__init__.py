"""`easi3r evaluate`: ``command`` holds the options, ``runs`` does the work."""
