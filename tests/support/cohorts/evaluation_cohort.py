"""A small cohort with known structure for the tests of the report, and ways to spoil it."""

from pathlib import Path

import numpy as np
import pandas as pd

from healthgym.schema import Schema
from healthgym.storage.shard import Shard
from healthgym.storage.shards import Manifest, save_shard, write_manifest

SCHEMA = Schema.model_validate(
    {
        "name": "toy",
        "title": "A toy cohort",
        "variables": [
            {"name": "pressure", "kind": "real", "unit": "mmHg"},
            {"name": "rate", "kind": "real", "unit": "bpm"},
            {"name": "urine", "kind": "real", "unit": "mL/h"},
            {"name": "ward", "kind": "categorical", "classes": {0: "low", 1: "mid", 2: "high"}},
            {"name": "drug", "kind": "binary", "classes": {0: "no", 1: "yes"}},
            {"name": "sex", "kind": "binary", "static": True, "classes": {0: "female", 1: "male"}},
            {"name": "group", "kind": "categorical", "static": True, "classes": ["A", "B", "C", "D"]},
        ],
    }
)  # fmt: skip


def cohort(num_patients: int, seed: int, num_timesteps: int = 16) -> pd.DataFrame:
    """Return patients whose rate follows their pressure, whose ward follows both, over time and by group."""
    rng = np.random.default_rng(seed)
    shape = (num_patients, num_timesteps)
    sex = rng.random(num_patients) < 0.5
    group = rng.choice(4, num_patients, p=[0.5, 0.25, 0.17, 0.08])
    level = 0.6 * rng.normal(size=num_patients) + 0.5 * (group - 1) + 0.3 * sex
    z = np.zeros(shape)
    state = level + 0.3 * rng.normal(size=num_patients)
    for step in range(num_timesteps):
        state = level + 0.85 * (state - level) + 0.3 * rng.normal(size=num_patients)
        z[:, step] = state
    rate = 80 + 12 * (0.8 * z + 0.4 * rng.normal(size=shape))
    urine = np.exp(4 - 0.5 * z + 0.4 * rng.normal(size=shape))
    ward = np.digitize(z, [-0.3, 0.8])
    drug = (z > 1.0).astype(int)
    columns = {"pressure": 90 + 10 * z, "rate": rate, "urine": urine, "ward": ward, "drug": drug}
    frame = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    frame["sex"] = np.repeat(sex.astype(int), num_timesteps)
    frame["group"] = np.repeat(group, num_timesteps)
    frame.insert(0, "PatientID", np.repeat(np.arange(num_patients), num_timesteps))
    frame.insert(1, "Timestep", np.tile(np.arange(num_timesteps), num_patients))
    return labelled(frame)


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with classes as pandas categories of labels."""
    done = frame.copy()
    for variable in SCHEMA.categoricals:
        done[variable.name] = pd.Categorical.from_codes(
            frame[variable.name], categories=list(variable.labels)
        )
    return done


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return every column in its own random order over all rows: the same marginals, nothing else."""
    rng = np.random.default_rng(0)
    return frame.assign(
        **{name: frame[name].to_numpy()[rng.permutation(len(frame))] for name in frame.columns[2:]}
    )


def one_type(frame: pd.DataFrame) -> pd.DataFrame:
    """Return as many patients, all of them of the commonest kind, drawn with replacement and jittered."""
    rng = np.random.default_rng(0)
    first = frame[frame["Timestep"] == 0]
    kind = first.groupby(["sex", "group"], observed=True).size().idxmax()
    chosen = first[(first["sex"] == kind[0]) & (first["group"] == kind[1])]["PatientID"].to_numpy()
    by_patient = dict(list(frame.groupby("PatientID")))
    parts = []
    for number, patient in enumerate(rng.choice(chosen, len(first))):
        part = by_patient[patient].assign(PatientID=number)
        parts.append(part.assign(rate=part["rate"] + 0.1 * rng.normal(size=len(part))))
    return pd.concat(parts, ignore_index=True)


def write_shards(folder: Path, frame: pd.DataFrame, per_shard: int) -> Path:
    """Write a cohort folder as synthesis does, without a system; raw "sex" differed on 2% of rows."""
    patients = frame["PatientID"].unique()
    plan = "0" * 64
    records = []
    for index, start in enumerate(range(0, len(patients), per_shard)):
        part = frame[frame["PatientID"].isin(patients[start : start + per_shard])]
        columns = {v.name: part[v.name].to_numpy(np.float32) for v in SCHEMA.reals}
        columns |= {v.name: part[v.name].cat.codes.to_numpy().astype(np.uint8) for v in SCHEMA.categoricals}
        lengths = part.groupby("PatientID").size().to_numpy(np.int32)
        shard = Shard(SCHEMA, start, lengths, columns)
        records.append(save_shard(folder, index, shard, plan, "hdf5", "none", {}).record)
    manifest = Manifest(
        description="Made for a test.",
        num_patients=len(patients),
        num_rows=len(frame),
        checkpoint_sha256="1" * 64,
        seed=3,
        plan_sha256=plan,
        plan={},
        software={},
        acceptance_rate=1.0,
        static_disagreement={
            "sex": {"timestep_rate": 0.02, "patient_rate": 0.1},
            "group": {"timestep_rate": 0.01, "patient_rate": 0.1},
        },
        cohort_schema=SCHEMA.to_json(),
        shards=tuple(records),
    )
    write_manifest(folder, manifest)
    return folder
