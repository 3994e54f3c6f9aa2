"""Compare a synthetic cohort with real patients, and write a report.

healthgym evaluate --schema configs/schemas/art_hiv.yaml --real real.csv --synthetic cohort/ --out report
"""

import argparse


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and write the report."""
    from healthgym.launch.executor import add_arguments, launch
    from healthgym.launch.requests import EvaluateRequest
    from healthgym.options import add_options

    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    add_options(parser, EvaluateRequest)
    add_arguments(parser)
    options = vars(parser.parse_args(argv))
    on, dry_run = options.pop("on"), options.pop("dry_run")

    from healthgym.launch.jobs import EvaluateJob
    from healthgym.launch.programs import ended

    return ended(lambda: launch(EvaluateJob.of(**options), on, dry_run), on == "debug")
