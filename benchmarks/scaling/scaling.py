"""How cost grows: with patients, timesteps, features, the batch, shards and processes.

    python benchmarks/scaling/scaling.py --json FILE [--only ranks length ...]   # measure; adds to the file
    python benchmarks/scaling/scaling.py --json FILE --draw FOLDER               # draw what was measured

One axis is varied at a time; each point is measured in a process of its own, with one thread, in processor
seconds. The cohorts are random numbers: time and memory do not depend on their values.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure
import scaling_measures
from scaling_measures import CPU

BATCH, FEATURES, LENGTH = 32, 22, 60
SYSTEMS = ("v1", "v2", "v2.5", "v3")
Row = dict[str, Any]


def steps(points: list[Row]) -> list[Row]:
    """Measure a training step at each point."""
    rows = []
    for point in points:
        full = {"length": LENGTH, "features": FEATURES, "batch": BATCH} | point
        rows.append(full | measure.in_new_process(_step, full))
        print(rows[-1], flush=True)
    return rows


def _step(point: Row) -> dict[str, float]:
    return scaling_measures.training_step(**point)


def each(function: Callable[..., dict[str, float]], points: list[Row]) -> list[Row]:
    """Call a function at each point, in a process of its own."""
    rows = []
    for point in points:
        rows.append(point | measure.in_new_process(function, *point.values()))
        print(rows[-1], flush=True)
    return rows


def ranks(rounds: int = 3) -> dict[str, Any]:
    """Measure one and two processes."""
    from scaling_ranks import one_and_two_processes

    found = {"batch": 256, **one_and_two_processes([10, 30, 60], 256, FEATURES, rounds)}
    for row in found["rows"]:
        print({name: value for name, value in row.items() if name != "bytes_of_each"}, flush=True)
    return found


def lengths() -> list[Row]:
    """Measure steps of 50 to 500 timesteps."""
    return steps([{"system": name, "length": T} for name in SYSTEMS for T in (50, 200, 500)])


def features() -> list[Row]:
    """Measure steps with 22 to 200 features."""
    return steps([{"system": name, "features": F} for name in SYSTEMS[1:] for F in (22, 70, 200)])


def batches() -> list[Row]:
    """Measure steps of 8 to 128 patients."""
    return steps([{"system": name, "batch": B} for name in SYSTEMS[1:] for B in (8, 32, 128)])


def corner() -> list[Row]:
    """Measure the longest and widest step of each system."""
    return steps([{"system": name, "length": 500, "features": 200} for name in SYSTEMS])


def less_memory() -> list[Row]:
    """Measure two ways to need less memory: micro-batches, and activations computed twice."""
    ways: list[Row] = [{}, {"micro": 8}, {"checkpointed": True}]
    return steps([{"system": name, "length": 500, **way} for name in ("v3", "v2.5") for way in ways])


def subnormal() -> list[Row]:
    """Measure a step of v2 with subnormal numbers, and with zeros for them."""
    return steps(
        [
            {"system": "v2", "length": T, "flushed": flushed}
            for T in (60, 120, 200)
            for flushed in (True, False)
        ]
    )


def attention() -> list[Row]:
    """Measure v2.5's block and its quadratic part."""
    points: list[Row] = [{"length": T, "batch": BATCH, "rounds": 3} for T in (50, 100, 200, 500, 1000)]
    return each(scaling_measures.attention, points)


def patients() -> dict[str, list[Row]]:
    """Measure preparation, and what training needs of a cohort before its first batch."""
    return {
        "prepare": each(scaling_measures.preparation, [{"patients": N} for N in (1000, 4000, 16_000)]),
        "open": each(scaling_measures.opening, [{"patients": N} for N in (10_000, 100_000, 1_000_000)]),
    }


def shards() -> list[Row]:
    """Measure synthesis of more shards, and of larger ones."""
    more: list[Row] = [{"shards": n, "patients_per_shard": 1024} for n in (1, 2, 4, 8)]
    larger: list[Row] = [{"shards": 1, "patients_per_shard": n} for n in (256, 4096, 16_384)]
    return each(scaling_measures.synthesis, more + larger)


SECTIONS: dict[str, Callable[[], Any]] = {
    "ranks": ranks,
    "length": lengths,
    "less_memory": less_memory,
    "attention": attention,
    "batch": batches,
    "features": features,
    "corner": corner,
    "patients": patients,
    "shards": shards,
    "subnormal": subnormal,
}


def main() -> None:
    """Measure sections, or draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--json", type=Path, required=True, help="results; sections not measured now are kept"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--draw", type=Path, help="draw the plots of an earlier run into this folder")
    options = parser.parse_args()
    found = json.loads(options.json.read_text()) if options.json.exists() else {}
    if options.draw:
        from scaling_plots import draw

        for path in draw(found, options.draw):
            print(path)
        return
    for name in options.only:
        found[name] = SECTIONS[name]()
        found["machine"] = {**measure.machine(CPU), "threads": 1, "clock": "processor"}
        measure.write(options.json, found)


if __name__ == "__main__":
    main()
