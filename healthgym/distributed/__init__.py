"""Several processes of one job: which rows of a batch each takes, and sums over all of them."""
