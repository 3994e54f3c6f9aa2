"""Whether two commits compute the same: a change that should not change numbers shows it here.

    python benchmarks/same.py OLD [NEW] [--epochs N] [--patients N] [--no-report]

Each commit is checked out into a temporary folder, where its own programs prepare simulated patients,
train the demo's v2 and ar, make a small cohort of each and judge that of v2. What is compared: the bytes of
the prepared cohort and of every shard, the metrics of training except times, and the report's sections. NEW
is a commit, or "." for the working tree as it stands (the default). Exit status: 0 all the same, 1 something
differs, 2 a commit failed. Three minutes on one core.

Both sides run with the same Python, packages and number of threads.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = "configs/schemas/art_hiv.yaml"
CONFIGS = {"v2": "configs/demo.yaml", "ar": "configs/demo_ar.yaml"}
TIMES = {"seconds", "sequences_per_second"}


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Give a folder with a commit's files; the working tree for "."."""
    if commit == ".":
        yield ROOT
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def commands(out: Path, epochs: int, patients: int, report: bool) -> list[str]:
    """Return what is run, in order: `make demo` with fewer patients and epochs."""
    per_shard = -(-patients // 2)
    lines = [
        f"jobs/prepare.py {SCHEMA} --dataset simulated_art_hiv --max-patients 300 --out {out}/prepared.h5 "
        f"--tables {out}/tables"
    ]
    for system, config in CONFIGS.items():
        lines += [
            f"jobs/train.py {config} --data {out}/prepared.h5 --run-dir {out}/run-{system} "
            f"--set training.epochs={epochs}",
            f"jobs/synthesize.py --run-dir {out}/run-{system} --patients {patients} "
            f"--patients-per-shard {per_shard} --out {out}/cohort-{system}",
        ]
    judged = (
        f"jobs/evaluate.py --schema {SCHEMA} --real {out}/tables/train.csv "
        f"--holdout {out}/tables/holdout.csv --synthetic {out}/cohort-v2 --out {out}/report"
    )
    return [*lines, judged] if report else lines


def run(commit: str, out: Path, lines: list[str]) -> None:
    """Run a commit's programs.

    Raises:
        SystemExit: one of them failed; its output is printed.
    """
    with checked_out(commit, out / "tree") as tree:
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        for line in lines:
            done = subprocess.run(
                [sys.executable, *shlex.split(line)],
                cwd=tree,
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                print(
                    f"{commit}: {line}\nended with exit status {done.returncode}:\n{done.stdout}{done.stderr}"
                )
                raise SystemExit(2)


def results(out: Path) -> dict[str, Any]:
    """Return what is compared, by name."""
    found: dict[str, Any] = {"prepared.h5": digest(out / "prepared.h5")}
    for system in CONFIGS:
        for shard in sorted((out / f"cohort-{system}" / "shards").glob("*")):
            found[f"{system}, {shard.name}"] = digest(shard)
        for line in (out / f"run-{system}" / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            for name in sorted(record.keys() - TIMES):
                found[f"{system}, step {record['step']}, {name}"] = record[name]
    if (out / "report").exists():
        report = json.loads((out / "report" / "report.json").read_text())
        for section in report["sections"]:
            for name, value in flat(section):
                found[f"report, {section.get('key') or section.get('title')}, {name}"] = value
    return found


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def flat(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through the values of nested JSON; an entry of a list goes by its "key" if it has one."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from flat(value, f"{name}.{key}" if name else key)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            key = value.get("key", number) if isinstance(value, dict) else number
            yield from flat(value, f"{name}.{key}")
    else:
        yield name, content


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Say in a line each what differs."""
    absent = "(absent)"
    return [
        f"{name}: {old.get(name, absent)} -> {new.get(name, absent)}"
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name, absent) != new.get(name, absent)
    ]


def main() -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", nargs="?", default=".", help='a commit; "." (default) is the working tree')
    parser.add_argument("--epochs", type=int, default=2, help="of each system")
    parser.add_argument("--patients", type=int, default=200, help="in each cohort")
    parser.add_argument("--no-report", action="store_true", help="leave the report out")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for side, commit in (("old", options.old), ("new", options.new)):
            out = Path(folder) / side
            out.mkdir()
            run(commit, out, commands(out, options.epochs, options.patients, not options.no_report))
            found.append(results(out))
    lines = differences(*found)
    print("\n".join(lines) or f"{len(found[0])} values and files are the same")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
