"""Training: the curriculum, the loop, checkpoints and progress."""
