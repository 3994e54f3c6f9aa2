"""Make a shareable release of a checkpoint, with a card that describes its origin and the changes.

healthgym release --run-dir runs/a --out release.h5 --data prepared.h5
healthgym synthesize --checkpoint release.h5 --patients 4000 --out cohort

With --data, a cohort of the checkpoint and one of the release are made and judged, which takes minutes:
the card shows both, the reports are kept in release-reports/. After an interrupt the same command resumes. A
system that fails its report is released only with --despite and a reason, which the card prints.
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
    add("--run-dir", type=Path, required=True, help="a run folder, or a checkpoint")
    add("--out", type=Path, required=True, help="release.h5; its card and reports go beside it")
    add("--coarsen", type=int, default=10, metavar="K", help="patients per centroid (10)")
    add("--report", type=Path, help="report.json on a cohort of the checkpoint")
    add("--data", type=Path, help="its prepared cohort, to measure what the release changes")
    add("--no-effect", action="store_true", help="with --data, skip the two cohorts and reports")
    add("--patients", type=int, help="in each of the two cohorts (2000, or the training patients if fewer)")
    add("--seed", type=int, default=0, help="of the two cohorts (0)")
    add("--config", type=Path, default=shipped.thresholds(), help="settings and thresholds (YAML)")
    add("--despite", default="", metavar="REASON", help="why it is released although its report fails")
    asked = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym import stopping
        from healthgym.release.dossier import worse
        from healthgym.release.effect import Cohorts
        from healthgym.release.release import release

        effect = None if asked.no_effect else Cohorts(asked.patients, asked.seed)
        try:
            card = release(
                asked.run_dir,
                asked.out,
                shipped.report_settings(asked.config),
                asked.coarsen,
                asked.report,
                asked.data,
                effect,
                asked.despite,
            )
        except KeyboardInterrupt:
            print("Stopped, nothing released yet. Give the same command to go on.", file=sys.stderr)
            return stopping.INTERRUPTED
        for line in worse(card["report_effect"]):
            print(f"worse: {line}")
        print(f"released: {asked.out}; card: {asked.out.with_suffix('.md')}")
        return 0

    return ended(work)
