"""Slurm: resources, the batch script, submitting, requeueing, and the states of jobs.

`healthgym.environment` reads the environment of a running job. Another scheduler needs a package like this
one, its variables there, and its imports in `launch/submission.py`, `tracking.py` and `local.py`.
"""
