"""The same program as `healthgym inspect`."""

import sys

from healthgym.commands.inspect import main

if __name__ == "__main__":
    sys.exit(main())
