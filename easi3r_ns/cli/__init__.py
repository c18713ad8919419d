"""The command lines `ns-process-data easi3r` and `easi3r`."""
