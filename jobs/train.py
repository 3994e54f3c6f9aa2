"""The same program as `healthgym train`."""

import sys

from healthgym.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
