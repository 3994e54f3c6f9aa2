"""Judging a cohort made by anybody: fidelity, dynamics, collapse, utility and privacy in one report."""
