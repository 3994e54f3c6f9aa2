"""Finding, reading and checking tables of patients."""
