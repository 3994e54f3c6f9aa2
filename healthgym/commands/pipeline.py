"""Submit prepare, train, synthesize and evaluate at once, each after the previous one.

healthgym pipeline slurm/pipeline.yaml      the same command resumes the unfinished stages
"""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", type=Path, help="what each stage does and where: slurm/pipeline.yaml")
    parser.add_argument("--dry-run", action="store_true", help="show the batch scripts, and stop")
    options = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym.launch.pipeline import show_pipeline, submit_pipeline

        if options.dry_run:
            print(show_pipeline(options.pipeline))
        else:
            submit_pipeline(options.pipeline)
        return 0

    return ended(work)
