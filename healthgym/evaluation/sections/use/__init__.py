"""Sections on the use of a cohort."""
