"""Slurm: resources, the batch script, submitting, requeueing, and the states of jobs.

`healthgym.environment` reads the environment of a running job. For another scheduler only these two would
have to be replaced.
"""
