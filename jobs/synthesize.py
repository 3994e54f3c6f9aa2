"""The same program as `healthgym synthesize`."""

import sys

from healthgym.commands.synthesize import main

if __name__ == "__main__":
    sys.exit(main())
