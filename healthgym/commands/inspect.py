"""Print the content of a checkpoint: progress, settings, arrays; or the shape of each stage of v3."""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("path", type=Path, help="a checkpoint, a run folder for its newest one, or settings")
    parser.add_argument("--shapes", action="store_true", help="print v3's shape contract instead")
    parser.add_argument("--schema", type=Path, help="with settings: what the features are")
    parser.add_argument("--length", type=int, help="timesteps; the longest training patients if not given")
    options = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym import shipped
        from healthgym.storage.checkpoint import describe
        from healthgym.training.shapes import is_settings, shape_contract

        if options.shapes or is_settings(options.path):
            print(
                shape_contract(
                    options.path, options.schema and shipped.schema(options.schema), options.length
                )
            )
        else:
            print(describe(options.path))
        return 0

    return ended(work)
