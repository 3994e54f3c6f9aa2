"""The same program as `healthgym release`."""

import sys

from healthgym.commands.release import main

if __name__ == "__main__":
    sys.exit(main())
