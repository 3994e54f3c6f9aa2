"""Compare several trained systems on one page, with the same real patients.

healthgym compare runs/v1 runs/v2 --schema configs/schemas/art_hiv.yaml --real prepared.h5 --out compare

After an interrupt the same command resumes: finished cohorts are kept.
"""

import argparse
import sys
from pathlib import Path

from healthgym import shipped


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run folders, checkpoints or releases; each gets a column")
    add("--schema", type=Path, required=True, help="YAML file: what the columns mean")
    add("--real", type=Path, required=True, help="training patients: CSV, Parquet or prepared.h5")
    add("--holdout", type=Path, help="real patients unseen in training (prepared.h5 brings its own)")
    add("--out", type=Path, required=True, help="folder for compare.html, cohorts and reports")
    add("--patients", type=int, default=2000, help="patients in each synthetic cohort (2000)")
    add("--seed", type=int, default=0, help="of the cohorts (0)")
    add("--batch-size", type=int, default=512, help="patients sampled at once (512)")
    add("--config", type=Path, default=shipped.thresholds(), help="settings and thresholds (YAML)")
    add("--sampling", action="append", default=[], metavar="KEY=VALUE", help="e.g. system.sampler.kind=dpmpp")
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym import stopping
        from healthgym.release.compare_runs import compare_runs

        try:
            found = {
                "schema": shipped.schema(arguments.schema),
                "config": shipped.report_settings(arguments.config),
            }
            compare_runs(**vars(arguments) | found)
        except KeyboardInterrupt:
            print("Stopped before the page was written. Give the same command to go on.", file=sys.stderr)
            return stopping.INTERRUPTED
        print(f"compared {len(arguments.runs)} systems: {arguments.out / 'compare.html'}")
        return 0

    return ended(work)
