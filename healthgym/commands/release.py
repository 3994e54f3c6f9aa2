"""Make a shareable release of a checkpoint, with a card that describes its origin and the changes.

healthgym release --run-dir runs/a --out release.h5 --data prepared.h5
healthgym synthesize --checkpoint release.h5 --patients 4000 --out cohort

With --data, a cohort of the checkpoint and one of the release are made and judged, which takes minutes:
the card shows both, the reports are kept in release-reports/. After an interrupt the same command resumes. A
system that fails its report is released only with --despite and a reason, which the card prints.
"""

import sys

from healthgym import shipped, stopping
from healthgym.commands.asking import answer
from healthgym.release.requests import ReleaseRequest


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return answer(ReleaseRequest, _release, str(__doc__), argv, prog)


def _release(asked: ReleaseRequest) -> int:
    from healthgym.release.dossier import worse
    from healthgym.release.effect import Cohorts
    from healthgym.release.release import release

    try:
        card = release(
            checkpoint=asked.run_dir,
            out=asked.out,
            config=shipped.report_settings(asked.config),
            at_least=asked.coarsen,
            report=asked.report,
            data=asked.data,
            effect=None if asked.no_effect else Cohorts(asked.patients, asked.seed),
            despite=asked.despite,
        )
    except KeyboardInterrupt:
        print("Stopped, nothing released yet. Give the same command to resume.", file=sys.stderr)
        return stopping.INTERRUPTED
    for line in worse(card["report_effect"]):
        print(f"worse: {line}")
    print(f"released: {asked.out}; card: {asked.out.with_suffix('.md')}")
    return 0
