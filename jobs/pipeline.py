"""The same program as `healthgym pipeline`."""

import sys

from healthgym.commands.pipeline import main

if __name__ == "__main__":
    sys.exit(main())
