"""The program `healthgym`: one module per command, with its command line."""
