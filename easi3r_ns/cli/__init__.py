"""What a person types: `ns-process-data easi3r` and `easi3r ...`."""
