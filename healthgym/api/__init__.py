"""What `import healthgym` offers to Python: the programs' work on data frames. See `healthgym.__all__`."""
