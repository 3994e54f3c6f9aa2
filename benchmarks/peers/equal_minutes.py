"""Systems trained for the same minutes on the same patients, and what the report says of their cohorts.

    python benchmarks/peers/equal_minutes.py --schema art_hiv.yaml --prepared prepared.h5 --tables tables \
        --minutes 10 --out contest [--systems ar v1 v2 v2_5 v3] \
        [--peer "DGAN=PYTHON benchmarks/peers/dgan.py {train} {schema} {minutes} {out}"]

Each system is trained by its preset with one thread, a peer by a command that writes a cohort as CSV. All are
judged against the same held-out patients. A run that is there already is continued or kept. The table is
written to OUT/table.md, the figures to OUT/table.json.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# After minutes of training nearly all patients of v3 leave the range of the data, and the published guardrail
# draws such patients again without end; the published sampler takes 20 times as long.
SAMPLING = {"v3": ("system.guardrail.kind=clamp", "system.sampler.kind=dpmpp")}
METRICS = {
    "marginals.ks": "distribution (KS)",
    "dynamics.switches": "switches",
    "dynamics.changes": "changes",
    "joint.same_time": "relations",
    "collapse.knn_coverage": "covered",
    "discriminability.boosting": "classifier AUC",
    "privacy.membership_auc": "membership",
}


def run(*words: str | Path) -> float:
    """Run a command with one thread and return its seconds of a processor.

    Raises:
        SystemExit: it failed; its words have been shown.
    """
    before = os.times()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(word) for word in words], check=False, env=environment)
    if done.returncode:
        sys.exit(f"equal_minutes: this command ended with status {done.returncode}: {words}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def job(name: str, *words: str | Path) -> float:
    return run(sys.executable, ROOT / "jobs" / f"{name}.py", *words)


def made_by_system(name: str, arguments: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """Train a system, sample from it, and return its cohort and the processor seconds of training."""
    seconds = job(
        "train",
        ROOT / "configs" / f"{name}.yaml",
        *("--data", arguments.prepared, "--run-dir", folder / "run"),
        *("--set", f"training.minutes={arguments.minutes}", "--set", "training.threads=1"),
        *("--set", f"training.seed={arguments.seed}"),
        *(word for setting in arguments.set for word in ("--set", setting)),
    )
    cohort = folder / "cohort"
    sampling = [word for setting in SAMPLING.get(name, ()) for word in ("--set", setting)]
    patients = ("--patients", str(arguments.patients), *sampling)
    job("synthesize", "--run-dir", folder / "run", *patients, "--out", cohort)
    return cohort, seconds


def made_by_peer(command: str, arguments: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """Run a peer's command, and return the cohort that it wrote and its processor seconds."""
    cohort = folder / "cohort.csv"
    if cohort.exists():
        return cohort, 0.0
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "train": arguments.tables / "train.csv",
        "schema": arguments.schema,
        "minutes": arguments.minutes,
        "out": cohort,
        "patients": arguments.patients,
    }
    return cohort, run(*(word.format(**given) for word in shlex.split(command)))


def judged(name: str, cohort: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Judge a cohort and return its row of the table."""
    real = ("--real", arguments.tables / "train.csv", "--holdout", arguments.tables / "holdout.csv")
    out = folder / "report"
    job("evaluate", "--schema", arguments.schema, *real, "--synthetic", cohort, "--out", out)
    report = json.loads((out / "report.json").read_text())
    verdicts = [section["verdict"] for section in report["sections"]]
    figures = {figure["key"]: figure["value"] for part in report["sections"] for figure in part["figures"]}
    return {
        "system": name,
        "verdicts": {each: verdicts.count(each) for each in ("pass", "caution", "fail", "not judged")},
        "metrics": {key: figures.get(key) for key in METRICS},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    head = ["system", "pass / caution / fail / not judged", *METRICS.values()]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for row in rows:
        counts = " / ".join(str(count) for count in row["verdicts"].values())
        values = ["-" if value is None else f"{value:.3f}" for value in row["metrics"].values()]
        lines.append(f"| {' | '.join([row['system'], counts, *values])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schema", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True, help="what prepare wrote by --out")
    parser.add_argument("--tables", type=Path, required=True, help="what prepare wrote by --tables")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each (10)")
    parser.add_argument("--patients", type=int, default=2000, help="in each cohort (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--systems", nargs="*", default=["ar", "v1", "v2", "v2_5", "v3"])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every training")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.systems:
        folder = arguments.out / name
        cohort, seconds = made_by_system(name, arguments, folder)
        rows.append(judged(name.replace("_", "."), cohort, arguments, folder) | {"seconds": seconds})
    for peer in arguments.peer:
        name, _, command = peer.partition("=")
        folder = arguments.out / name
        cohort, seconds = made_by_peer(command, arguments, folder)
        rows.append(judged(name, cohort, arguments, folder) | {"seconds": seconds})
    settings = {key: str(value) for key, value in vars(arguments).items() if key != "peer"}
    made = {"minutes": arguments.minutes, "at": time.strftime("%Y-%m-%d"), "settings": settings, "rows": rows}
    (arguments.out / "table.json").write_text(json.dumps(made, indent=1))
    (arguments.out / "table.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
