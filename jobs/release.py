"""Make a checkpoint fit to be given away, with a card of where it comes from.

python jobs/release.py --run-dir runs/a --out release.h5 --data prepared.h5 --report report/report.json
python jobs/synthesize.py --checkpoint release.h5 --patients 4000 --out cohort

Judge a cohort made from the release with jobs/evaluate.py before either is given away.
"""

import argparse
import sys
from pathlib import Path

_THRESHOLDS = Path(__file__).resolve().parent.parent / "configs" / "report.yaml"


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--run-dir", type=Path, required=True, help="a run folder, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="release.h5; its card goes beside it")
    parser.add_argument("--coarsen", type=int, default=10, metavar="K", help="patients per centroid (10)")
    parser.add_argument("--report", type=Path, help="report.json on a cohort of the checkpoint")
    parser.add_argument("--data", type=Path, help="its prepared cohort: show what the coarsening does")
    parser.add_argument("--config", type=Path, default=_THRESHOLDS, help="thresholds (YAML)")
    asked = parser.parse_args(argv)

    from healthgym.errors import HealthgymError
    from healthgym.launch.release import release

    try:
        release(asked.run_dir, asked.out, asked.config, asked.coarsen, asked.report, asked.data)
    except HealthgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"released: {asked.out}; card: {asked.out.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
