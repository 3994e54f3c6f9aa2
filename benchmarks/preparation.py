"""What preparing a cohort costs, by size and form of the table, and training from one larger than memory.

    python benchmarks/preparation.py [--registry 1000000] [--json FILE] [--keep FOLDER] [--only SECTION ...]

Each table is prepared in a process of its own: processor seconds (reading, both checks of the seal and
writing included) and the highest resident memory, imports included. Tables are of the simulated registry,
60 months per patient. Training is then timed by turns, A B A B, on batches from the largest cohort, through
its memory map, and from a small one that lies in memory.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from healthgym.config import CurriculumConfig, RunConfig
from healthgym.data.prepare import prepare_parts
from healthgym.data.sequences import PreparedCohort, Sequences
from healthgym.data.simulation.simulate import simulate_chunks
from healthgym.data.tables.sources import find_source
from healthgym.schema import load_schema
from healthgym.storage.prepared import SplitArrays
from healthgym.strict import parse
from healthgym.systems.base import PositionDraws
from healthgym.systems.build import build_system
from healthgym.training.batches import Batches
from healthgym.training.curriculum import Curriculum

SCHEMA = Path(__file__).parents[1] / "configs" / "schemas" / "art_hiv.yaml"
PATIENTS = (8_916, 10_000, 100_000)  # the first is the size of the public cohort
LENGTH, BATCH = 60, 256
SECTIONS = ("tables", "registry", "training")


def write_table(path: Path, num_patients: int) -> None:
    """Write a table of simulated patients in bounded memory."""
    writer = None
    for index, chunk in enumerate(simulate_chunks(num_patients, 0, chunk_patients=5_000)):
        if path.suffix == ".csv":
            chunk.to_csv(path, mode="a" if index else "w", header=not index, index=False)
            continue
        rows = pa.Table.from_pandas(chunk, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)
    if writer:
        writer.close()


def prepare(table: Path | None, num_patients: int, out: Path) -> dict[str, Any]:
    """Prepare a table, or simulated patients without one, and return what it cost."""
    start = time.process_time()
    schema = load_schema(SCHEMA)
    dataset = None if table else "simulated_art_hiv"
    source = find_source(schema, table, dataset, 0, None if table else num_patients, None)
    prepare_parts(source.parts(), schema, out, source=source.name)
    return {
        "patients": num_patients,
        "form": table.suffix[1:] if table else "simulated",
        "table_megabytes": round(table.stat().st_size / 1e6, 1) if table else None,
        "prepared_megabytes": round(out.stat().st_size / 1e6, 1),
        "processor_seconds": round(time.process_time() - start, 2),
        "peak_megabytes": round(measure.memory_bytes("VmHWM") / 1e6, 1),
    }


def prepare_tables(folder: Path) -> list[dict[str, Any]]:
    """Return a row per table, each prepared in a new process."""
    rows = []
    for form in ("csv", "parquet"):
        for num_patients in PATIENTS:
            table = folder / f"table.{form}"
            write_table(table, num_patients)
            rows.append(measure.in_new_process(prepare, table, num_patients, folder / "some.h5"))
            print(rows[-1], flush=True)
            table.unlink()
    return rows


def in_memory(patients: Sequences, num_patients: int) -> Sequences:
    """Return the first patients with their rows copied into memory."""
    lengths = np.array(patients.lengths_N[:num_patients])
    rows = int(lengths.sum())
    reals, codes = (np.array(each[:rows]) for each in patients.encoded())
    return Sequences(SplitArrays(reals, codes, reals[:0], lengths, lambda: np.arange(num_patients)))


def train(registry: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Return milliseconds per step and per batch, of a small v2, from the registry and from memory."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    clock = measure.Clock(device)
    cohort = PreparedCohort.open(registry, verify=False)
    config = parse(
        RunConfig,
        {"system": {"preset": "v2", "generator": {"hidden_dim": 32}, "critic": {"hidden_dim": 32},
                    "latent": {"hidden_dim": 32}}},
        "benchmark",
    )  # fmt: skip
    sources = {"registry": cohort.train, "in memory": in_memory(cohort.train, 20_000)}
    with_steps: dict[str, Callable[[], object]] = {}
    only_load: dict[str, Callable[[], object]] = {}
    loaders: list[Batches] = []
    for name, patients in sources.items():
        curriculum = Curriculum(CurriculumConfig(lengths=(LENGTH,), batch_size=BATCH), patients, 0)
        correlation = torch.from_numpy(cohort.correlation_FF)
        system = build_system(config.system, cohort.schema.layout, correlation, device, 0)
        loader = Batches(curriculum, patients, system)
        loaders.append(loader)

        def step(loader: Batches = loader, system: Any = system) -> None:
            for at in itertools.islice(loader, steps):
                system.train_step(at.batch, PositionDraws(0, at.step, device, 0, BATCH))

        def loads(loader: Batches = loader) -> None:
            for at in itertools.islice(loader, 100):
                assert at.batch.x_BTF.shape[1] == LENGTH

        with_steps[name], only_load[name] = step, loads
    seconds = measure.alternate(with_steps, rounds, clock)
    loading = measure.alternate(only_load, 2 * rounds, clock)
    for loader in loaders:
        loader.close()
    medians = {name: measure.median(values) for name, values in seconds.items()}
    return {
        "clock": clock.kind,
        "steps_per_second": {name: round(steps / value, 3) for name, value in medians.items()},
        "registry_over_memory": round(medians["in memory"] / medians["registry"], 4),
        "milliseconds_per_batch": {n: round(10 * measure.median(v), 3) for n, v in loading.items()},
        "peak_megabytes": round(measure.memory_bytes("VmHWM") / 1e6, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--registry", type=int, default=1_000_000, help="patients of the largest cohort")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="training steps of a round")
    parser.add_argument("--keep", type=Path, help="folder for the cohorts, which then stay there")
    parser.add_argument("--json", type=Path, help="results; sections not measured now are kept")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        registry = folder / "registry.h5"
        found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
        found |= measure.machine(torch.device("cpu"))
        for section in options.only:
            if section == "tables":
                found[section] = prepare_tables(folder)
            elif section == "registry":
                found[section] = measure.in_new_process(prepare, None, options.registry, registry)
            else:
                found[section] = measure.in_new_process(train, registry, options.rounds, options.steps)
            print(found[section], flush=True)
            measure.write(options.json, found)


if __name__ == "__main__":
    main()
