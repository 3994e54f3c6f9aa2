"""Compare several trained systems on one page, with the same real patients.

healthgym compare runs/v1 runs/v2 --schema configs/schemas/art_hiv.yaml --real prepared.h5 --out compare

After an interrupt the same command resumes: finished cohorts are kept.
"""

import sys

from healthgym import shipped, stopping
from healthgym.commands.asking import answer
from healthgym.comparing.request import CompareRequest


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return answer(CompareRequest, _compare, str(__doc__), argv, prog)


def _compare(asked: CompareRequest) -> int:
    from healthgym.comparing.runs import compare_runs

    try:
        compare_runs(
            runs=asked.runs,
            schema=shipped.schema(asked.schema_path),
            real=asked.real,
            out=asked.out,
            config=shipped.report_settings(asked.config),
            patients=asked.patients,
            holdout=asked.holdout,
            seed=asked.seed,
            batch_size=asked.batch_size,
            overrides=asked.set,
            sampling=asked.sampling,
        )
    except KeyboardInterrupt:
        print("Stopped before the page was written. Give the same command to resume.", file=sys.stderr)
        return stopping.INTERRUPTED
    print(f"compared {len(asked.runs)} systems: {asked.out / 'compare.html'}")
    return 0
