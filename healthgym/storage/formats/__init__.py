"""Cohorts in each file format: HDF5, and tables (Parquet and CSV)."""
