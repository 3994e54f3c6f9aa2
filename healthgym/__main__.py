"""`python -m healthgym` is the program `healthgym`."""

import sys

from healthgym.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
