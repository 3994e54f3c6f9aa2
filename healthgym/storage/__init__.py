"""Files on disk; the only package that imports h5py and pyarrow."""
