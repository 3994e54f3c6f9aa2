"""Files on disk: the only home of HDF5 and Parquet."""
