"""Tables of patients: found, read and checked."""
