"""Train generators of synthetic longitudinal patients on HPC clusters, and judge what they make."""

__version__ = "0.1.0"
