"""Attacks on the privacy of the training patients."""
