"""Put several trained systems side by side on one page, judged against the same real patients.

python jobs/compare.py runs/v1 runs/v2 --schema configs/schemas/art_hiv.yaml --real prepared.h5 --out compare
"""

import argparse
import sys
from pathlib import Path

_THRESHOLDS = Path(__file__).resolve().parent.parent / "configs" / "report.yaml"


def main() -> int:
    """Parse the command line, make the cohorts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run folders; each gets a column of its name")
    add("--schema", type=Path, required=True, help="YAML file: what the columns mean")
    add("--real", type=Path, required=True, help="training patients: CSV, Parquet or prepared.h5")
    add("--holdout", type=Path, help="real patients unseen in training (prepared.h5 brings its own)")
    add("--out", type=Path, required=True, help="folder for compare.html, cohorts and reports")
    add("--patients", type=int, default=2000, help="patients in each synthetic cohort (2000)")
    add("--seed", type=int, default=0, help="of the cohorts (0)")
    add("--batch-size", type=int, default=256, help="patients sampled at once (256)")
    add("--config", type=Path, default=_THRESHOLDS, help="settings and thresholds (YAML)")
    add("--sampling", action="append", default=[], metavar="KEY=VALUE", help="e.g. system.sampler.kind=dpmpp")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()

    from healthgym.errors import HealthgymError
    from healthgym.launch.compare import compare_runs

    try:
        compare_runs(**vars(arguments))
    except HealthgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"compared {len(arguments.runs)} systems: {arguments.out / 'compare.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
