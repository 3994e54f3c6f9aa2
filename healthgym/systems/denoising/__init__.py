"""v3: diffusion."""
