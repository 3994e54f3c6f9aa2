"""Look at a table that nobody has described: its keys, what its columns are, and how sure that is."""
