"""The room of runs."""
