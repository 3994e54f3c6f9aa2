"""From a clinical table to sequences."""
