"""Compare a synthetic cohort with real patients, and write a report.

healthgym evaluate --schema configs/schemas/art_hiv.yaml --real real.csv --synthetic cohort/ --out report
"""

import argparse
from pathlib import Path

from healthgym import shipped


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line and write the report."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--schema", type=Path, help="what the columns mean (a prepared.h5 brings its own)")
    parser.add_argument(
        "--real", type=Path, required=True, help="training patients: CSV, Parquet or prepared.h5"
    )
    parser.add_argument(
        "--holdout", type=Path, help="real patients unseen in training (prepared.h5 brings its own)"
    )
    parser.add_argument(
        "--synthetic", type=Path, required=True, help="cohort folder, CSV or Parquet to be judged"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for report.html, report.json and plots"
    )
    parser.add_argument(
        "--config", type=Path, default=shipped.thresholds(), help="settings and thresholds (YAML)"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    from healthgym.launch.executor import add_arguments, launch

    add_arguments(parser)
    options = vars(parser.parse_args(argv))
    on, dry_run = options.pop("on"), options.pop("dry_run")

    from healthgym.launch.jobs import EvaluateJob
    from healthgym.programs import ended

    return ended(lambda: launch(EvaluateJob.of(**options), on, dry_run), on == "debug")
