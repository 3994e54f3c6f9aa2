"""The same program as `healthgym compare`."""

import sys

from healthgym.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
