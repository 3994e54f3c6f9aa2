"""Drafting the schema of a table: its keys, the kinds of its columns, and the evidence for them."""
