"""What is fitted to the training patients: transforms, cells, correlations."""
