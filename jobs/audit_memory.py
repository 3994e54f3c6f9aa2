"""The same program as `healthgym audit`."""

import sys

from healthgym.commands.audit import main

if __name__ == "__main__":
    sys.exit(main())
