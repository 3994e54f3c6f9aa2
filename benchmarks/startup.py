"""How long a user waits: for --help, and from the demo's command to its first training step.

    python benchmarks/startup.py [--json FILE]

Wall seconds and processor seconds of a new process, the best of some; on a busy machine only the latter
tell about the program.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import torch

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("prepare", "train", "synthesize", "evaluate", "compare", "inspect_checkpoint")
FIRST_STEP = """
import sys
from healthgym.distributed.parallel import let_waiting_threads_sleep
let_waiting_threads_sleep()
from pathlib import Path
from healthgym.config import RunConfig
from healthgym.strict import load
from healthgym.training.run import train
from healthgym.training.trainer import Trainer
take = Trainer._take_step
def once(trainer):
    take(trainer)
    sys.exit(0)
Trainer._take_step = once
train(Path(sys.argv[1]), load(RunConfig, Path("configs/demo.yaml"), [f"data={sys.argv[2]}"]))
"""


def seconds_of(command: list[str], repeats: int) -> dict[str, float]:
    """Return the best wall and processor seconds of a command that must succeed."""
    wall, processor = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - start)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_seconds": round(min(wall), 2), "processor_seconds": round(min(processor), 2)}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    rows = {
        f"jobs/{name}.py --help": seconds_of([sys.executable, f"jobs/{name}.py", "--help"], options.repeats)
        for name in PROGRAMS
    }
    with tempfile.TemporaryDirectory() as folder:
        prepared, run = f"{folder}/prepared.h5", f"{folder}/run"
        prepare = (
            "jobs/prepare.py configs/schemas/art_hiv.yaml --dataset simulated_art_hiv --max-patients 300"
        )
        rows["preparing 300 simulated patients"] = seconds_of(
            [sys.executable, *prepare.split(), "--out", prepared], 1
        )
        first = [sys.executable, "-c", FIRST_STEP, run, prepared]
        rows["first step of the demo"] = seconds_of(first, options.repeats)
    print(f"{'':<34} {'wall s':>8} {'processor s':>12}")
    for name, row in rows.items():
        print(f"{name:<34} {row['wall_seconds']:>8.2f} {row['processor_seconds']:>12.2f}")
    measure.write(options.json, {**measure.machine(torch.device("cpu")), "rows": rows})


if __name__ == "__main__":
    main()
