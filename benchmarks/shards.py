"""What writing shards costs: patients/s and bytes per patient, by format, compression and shard size.

    python benchmarks/shards.py [--json results.json]

Encoding only, in one thread, disk left out. The columns are like those of ART for HIV: 3 reals with random
low bits and 10 categorical variables that change now and then.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from healthgym.schema import Schema, Variable
from healthgym.storage.forms import COMPRESSIONS
from healthgym.storage.shard import Shard
from healthgym.storage.shard_file import encode_shard

TIMESTEPS = 60
CLASSES = (2, 4, 6, 4, 4, 6, 2, 2, 2, 2)
SCHEMA = Schema(
    name="benchmark",
    variables=(
        *(Variable(name=f"real {r}", kind="real") for r in range(3)),
        *(
            Variable(
                name=f"categorical {k}",
                kind="categorical",
                classes={code: f"label {code}" for code in range(width)},
            )
            for k, width in enumerate(CLASSES)
        ),
    ),
)


def make_shard(num_patients: int) -> Shard:
    """Return a shard of made-up patients."""
    random, shape = np.random.default_rng(0), (num_patients, TIMESTEPS)
    columns: dict[str, NDArray[Any]] = {}
    for variable in SCHEMA.reals:
        level = random.normal(size=(num_patients, 1))
        columns[variable.name] = np.exp(level + 0.3 * random.normal(size=shape)).astype(np.float32).ravel()
    for variable in SCHEMA.categoricals:
        width = len(variable.classes)
        usual, other = random.integers(0, width, (num_patients, 1)), random.integers(0, width, shape)
        codes = np.where(random.random(shape) < 0.1, other, usual)
        columns[variable.name] = codes.astype(np.uint8).ravel()
    return Shard(SCHEMA, 0, np.full(num_patients, TIMESTEPS, dtype=np.int32), columns)


def measure(repeats: int, sizes: tuple[int, ...]) -> list[dict[str, object]]:
    """Return a row per format, compression and shard size; the best of some repeats."""
    rows: list[dict[str, object]] = []
    for num_patients in sizes:
        shard = make_shard(num_patients)
        for file_format, compressions in COMPRESSIONS.items():
            for compression in compressions:
                seconds, content = [], b""
                for _ in range(repeats):
                    start = time.thread_time()
                    content = encode_shard(shard, file_format, compression)  # type: ignore[arg-type]
                    seconds.append(time.thread_time() - start)
                rows.append(
                    {
                        "patients_per_shard": num_patients,
                        "format": file_format,
                        "compression": compression,
                        "patients_per_cpu_second": round(num_patients / min(seconds)),
                        "bytes_per_patient": round(len(content) / num_patients),
                    }
                )
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    rows = measure(options.repeats, tuple(options.sizes))
    print(
        f"{'patients/shard':>14} {'format':>8} {'compression':>12} {'patients/s':>11} {'bytes/patient':>14}"
    )
    for row in rows:
        print("{:>14,} {:>8} {:>12} {:>11,} {:>14,}".format(*row.values()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": platform.platform(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
