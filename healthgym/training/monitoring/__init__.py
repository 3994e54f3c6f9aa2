"""Losses of a run: logging, plots, validation and detection of divergence."""
