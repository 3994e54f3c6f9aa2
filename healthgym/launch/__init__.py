"""Launch: each job on this machine or on a SLURM cluster, by the same command."""
