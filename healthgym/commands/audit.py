"""Try to link a checkpoint's latent memory to its training patients, and write a report.

healthgym audit --run-dir runs/a --data prepared.h5 --out audit
"""

import argparse
from pathlib import Path

from healthgym import shipped


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, required=True, help="a run folder, or a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="the prepared cohort it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.html and report.json")
    parser.add_argument("--config", type=Path, default=shipped.thresholds(), help="thresholds (YAML)")
    parser.add_argument("--coarsen", type=int, default=0, metavar="K", help="judge centroids of K slots too")
    options = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym.release.memory_audit import audit_memory

        report = audit_memory(
            options.run_dir,
            options.data,
            options.out,
            shipped.report_settings(options.config),
            options.coarsen,
        )
        print(f"{report.verdict}: {options.out / 'report.html'}")
        return 0

    return ended(work)
