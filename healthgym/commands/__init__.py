"""The program `healthgym`: one module for each command, with its command line."""
