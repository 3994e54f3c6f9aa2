"""Several systems judged on the same patients, side by side."""
