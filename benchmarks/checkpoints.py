"""What a checkpoint costs: the part that holds training up, and the part that runs beside it.

    python benchmarks/checkpoints.py [--json FILE]

The state is that of a v2 of published size with a full latent memory. Training waits while the state is
copied; writing, checksum and fsync are a thread's.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import torch
from training_step import make_side

from healthgym.storage.tree import write_tree
from healthgym.systems.adversarial.wgan import WGANSystem
from healthgym.training.trainer import to_arrays


def best(repeats: int, call: Any) -> float:
    """Return the shortest wall time of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    system = make_side("ours", "v2", "7", device)
    assert isinstance(system, WGANSystem)
    state: dict[str, Any] = system.state()
    state["Mean_Container"] = torch.rand(10_000, 128, device=device)
    arrays = to_arrays(state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.h5"
        row = {
            "blocking_seconds": best(options.repeats, lambda: to_arrays(state)),
            "beside_seconds": best(options.repeats, lambda: write_tree(path, arrays, "benchmark", 1)),
            "megabytes": path.stat().st_size / 1e6,
        }
    share = row["blocking_seconds"] / 60
    # At worst, on a single core, the writing takes its processor time from training too.
    at_worst = (row["blocking_seconds"] + row["beside_seconds"]) / 60
    print(
        f"{row['megabytes']:.1f} MB: training waits {1e3 * row['blocking_seconds']:.1f} ms, writing takes "
        f"{1e3 * row['beside_seconds']:.0f} ms beside it; at one a minute {share:.3%} of a run, "
        f"{at_worst:.2%} if the writer had to share the only core"
    )
    measure.write(options.json, {**measure.machine(device), **row, "share_at_one_a_minute": share})


if __name__ == "__main__":
    main()
