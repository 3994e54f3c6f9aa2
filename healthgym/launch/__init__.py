"""Launch: each job on this machine or on a Slurm cluster, by the same command."""
