"""Comparing trained systems: a cohort of each, judged side by side by `healthgym.evaluation.comparing`."""
