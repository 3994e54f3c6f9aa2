"""Whole runs for `on_gpu.py`: training to the best weights, and synthesis from a checkpoint to files.

Patients are simulated ones; sizes of networks are the presets'.
"""

import io
import shutil
import time
from pathlib import Path
from typing import Any

from healthgym import shipped
from healthgym.config import RunConfig
from healthgym.data.prepare import prepare
from healthgym.data.simulation.simulate import simulate_art_hiv
from healthgym.schema import load_schema
from healthgym.strict import parse
from healthgym.synthesis.cohort import SynthesisRequest, synthesize
from healthgym.training.monitoring.metrics import read_metrics
from healthgym.training.run import train


def prepared(folder: Path, patients: int) -> Path:
    """Return a prepared cohort of simulated people in a folder, made if it is not there."""
    path = folder / "prepared.h5"
    if not path.exists():
        prepare(simulate_art_hiv(patients, seed=0), load_schema(shipped.schema(Path("art_hiv"))), path)
    return path


def trained(folder: Path, system: str, patients: int, device: str, **training: Any) -> Path:
    """Train a system in a folder unless that is done; return the run."""
    run = folder / f"run-{system}"
    values = {
        "system": system,
        "data": str(prepared(folder, patients)),
        "training": {"device": device, "threads": 1} | training,
    }
    if system != "ar":
        values["curriculum"] = {"lengths": [60], "batch_size": min(256, patients // 4), "accept_left_out": 1}
    said, start = io.StringIO(), time.monotonic()
    train(run, parse(RunConfig, values, "the benchmark"), said)
    if not (run / "said.txt").exists():
        first = said.getvalue().splitlines()[0]
        (run / "said.txt").write_text(f"{first}\n{time.monotonic() - start:.1f}")
    return run


def to_best_weights(run: Path) -> dict[str, Any]:
    """Return how long a run of ar took to its best weights and in all, and what it said first."""
    said, seconds = (run / "said.txt").read_text().splitlines()
    records = read_metrics(run / "metrics.jsonl")
    last = records[-1]
    best = next(record for record in records if record["step"] >= last["best_step"])
    return {
        "seconds to the best weights": best["seconds"],
        "their step": last["best_step"],
        "best nats": last["best_nats"],
        "steps": last["step"],
        "seconds of training": last["seconds"],
        "seconds in all": float(seconds),
        "sequences a second": last["sequences_per_second"],
        "said": said,
    }


def end_to_end(run: Path, patients: int, device: str, workers: int | None = None) -> dict[str, Any]:
    """Return patients a second of a whole `synthesize`, from the checkpoint to a complete cohort."""
    out = run.parent / f"cohort-{run.name}"
    shutil.rmtree(out, ignore_errors=True)
    request = SynthesisRequest(
        run_dir=run, out=out, patients=patients, device="cuda" if device == "cuda" else "cpu", workers=workers
    )
    start = time.monotonic()
    assert synthesize(request).state == "complete"
    seconds = time.monotonic() - start
    return {"seconds": round(seconds, 2), "patients a second": round(patients / seconds)}
