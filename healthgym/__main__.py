"""`python -m healthgym status FOLDER`: what became of the jobs submitted for a folder."""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m healthgym")
    commands = parser.add_subparsers(required=True, dest="command")
    status = commands.add_parser("status", help="what is queued, running, preempted, done, failed; how far")
    status.add_argument("folder", type=Path, help="a run, cohort or report folder, or a prepared cohort")
    status.add_argument("--all", action="store_true", help="also jobs that a later submission replaced")
    status.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym.launch import status as launch_status

        return launch_status.main(options.folder, options.all, options.json)

    return ended(work)


if __name__ == "__main__":
    sys.exit(main())
