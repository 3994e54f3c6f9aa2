"""Write the files of this version to tests/data/released/VERSION, once for each release.

    python tests/release/write_released.py

`test_released.py` reads them for as long as later versions must. It takes a few minutes.
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import pandas as pd
import tiny

import healthgym
from healthgym.data.sequences import PreparedCohort
from healthgym.evaluation.report import evaluate
from healthgym.release.release import release
from healthgym.storage.checkpoint import list_checkpoints, load_checkpoint
from healthgym.storage.shards import open_cohort
from healthgym.strict import parse
from healthgym.synthesis.cohort import SynthesisRequest, synthesize
from healthgym.training.run import train

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "tests" / "data" / "released"


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the mean of each real variable, and how often each class occurs."""
    means = {name: round(float(frame[name].mean()), 4) for name in ("x", "y")}
    counts = {
        name: {str(k): int(v) for k, v in frame[name].value_counts().items()} for name in ("sex", "drug")
    }
    return means | counts


def write() -> dict[str, Any]:
    """Write the files to the current folder; return what later versions must read in them."""
    cohort = tiny.cohort(Path(), num_patients=280, ragged=True)
    for system in ("v2", "ar"):
        assert train(Path(f"run-{system}"), tiny.config(Path(), system), io.StringIO())
        shutil.copy(list_checkpoints(Path(f"run-{system}") / "checkpoints")[0], f"checkpoint-{system}.h5")
    shutil.copy("checkpoint-v2.h5", "checkpoint.h5")
    facts = {"prepared": facts_of(cohort)}
    for form in ("hdf5", "parquet"):
        wanted = {"checkpoint": "checkpoint.h5", "out": f"cohort-{form}", "patients": 60}
        wanted |= {"patients_per_shard": 30, "file_format": form, "workers": 1}
        assert synthesize(parse(SynthesisRequest, wanted, "the writer")).state == "complete"
        facts[f"cohort-{form}"] = columns(open_cohort(Path(f"cohort-{form}")).read())
    step, schema = load_checkpoint(Path("checkpoint.h5")).progress.step, cohort.schema.name
    facts["checkpoint"] = {"step": step, "schema": schema}
    config = Path("report.yaml")
    thresholds = (ROOT / "configs" / "report.yaml").read_text()
    config.write_text(thresholds.replace("num_splits: 8", "num_splits: 3"))
    evaluate(None, Path("prepared.h5"), Path("cohort-hdf5"), Path("report"), config)
    shutil.copy("report/report.json", "report.json")
    release(Path("checkpoint.h5"), Path("release.h5"), config, data=Path("prepared.h5"), despite="a test")
    return facts


def facts_of(cohort: PreparedCohort) -> dict[str, Any]:
    """Return the content of a prepared cohort."""
    return {
        "fingerprint": cohort.fingerprint,
        "training_patients": cohort.train.num_patients,
        "holdout_patients": cohort.holdout.num_patients,
        "columns": columns(cohort.frame("train")),
    }


def main() -> None:
    """Write the files; keep none that no test reads."""
    out = RELEASED / healthgym.__version__
    if out.exists():
        sys.exit(f"{out} is there. Files of a released version are never changed.")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        facts = write()
        Path("facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        for name in ("run-v2", "run-ar", "report", "release-reports"):
            shutil.rmtree(name)
        for name in ("report.yaml", "checkpoint-v2.h5", "release.md"):
            Path(name).unlink()
        shutil.copytree(folder, out)


if __name__ == "__main__":
    main()
