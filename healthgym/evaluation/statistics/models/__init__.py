"""Models fitted to cohorts, and how well they rank patients."""
