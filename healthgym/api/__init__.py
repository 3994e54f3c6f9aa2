"""The Python functions of `import healthgym`, which work on data frames. See `healthgym.__all__`."""
