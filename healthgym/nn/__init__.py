"""Networks' parts. Torch only."""
