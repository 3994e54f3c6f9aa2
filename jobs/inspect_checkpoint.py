"""Print what is in a checkpoint: progress, settings, arrays."""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="a checkpoint file, or a run folder for its newest one")
    options = parser.parse_args(argv)

    from healthgym.errors import HealthgymError
    from healthgym.storage.checkpoint import describe

    try:
        print(describe(options.path))
    except HealthgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
