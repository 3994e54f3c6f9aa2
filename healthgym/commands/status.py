"""Show the jobs submitted for a folder, and their progress."""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("folder", type=Path, help="a run, cohort or report folder, or a prepared cohort")
    parser.add_argument("--all", action="store_true", help="also jobs that a later submission replaced")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym.launch import status

        return status.main(options.folder, options.all, options.json)

    return ended(work)
