"""Slurm: resources, the batch script, submitting, requeueing, and the states of jobs.

What a job asks of its environment while it runs is in `healthgym.environment`. Together they are all that
another scheduler would have to replace.
"""
