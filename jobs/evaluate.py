"""The same program as `healthgym evaluate`."""

import sys

from healthgym.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
