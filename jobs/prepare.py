"""The same program as `healthgym prepare`."""

import sys

from healthgym.commands.prepare import main

if __name__ == "__main__":
    sys.exit(main())
