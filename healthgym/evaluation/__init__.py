"""Judging a cohort of any origin: fidelity, dynamics, collapse, utility and privacy in one report."""
