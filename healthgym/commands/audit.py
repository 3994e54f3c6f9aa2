"""Try to link a checkpoint's latent memory to its training patients, and write a report.

healthgym audit --run-dir runs/a --data prepared.h5 --out audit
"""

from healthgym import shipped
from healthgym.commands.asking import answer
from healthgym.release.requests import AuditRequest


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return answer(AuditRequest, _audit, str(__doc__), argv, prog)


def _audit(asked: AuditRequest) -> int:
    from healthgym.release.memory_audit import audit_memory

    settings = shipped.report_settings(asked.config)
    report = audit_memory(asked.run_dir, asked.data, asked.out, settings, asked.coarsen)
    print(f"{report.verdict}: {asked.out / 'report.html'}")
    return 0
