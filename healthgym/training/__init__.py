"""Training: the curriculum, the loop, checkpoints and what is reported on the way."""
