"""Several processes of one job: their rows of a batch, and sums over all processes."""
