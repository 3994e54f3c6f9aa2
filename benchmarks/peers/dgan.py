"""A cohort by DGAN (Lin et al., IMC 2020), as the package gretel-synthetics has it, trained for some minutes.

    python benchmarks/peers/dgan.py TRAIN.csv SCHEMA.yaml MINUTES OUT.csv [PATIENTS]

The package is no part of this project: install gretel-synthetics and category_encoders (both without their
dependencies, since they ask for an old torch) beside this project's own packages in an environment of their
own. DGAN makes records of one length, so that only cohorts of one length can be learned.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from gretel_synthetics.timeseries_dgan.config import DGANConfig, OutputType
from gretel_synthetics.timeseries_dgan.dgan import DGAN

from healthgym.schema import load_schema


def main(train: Path, schema_path: Path, minutes: float, out: Path, patients: int = 2000) -> None:
    schema = load_schema(schema_path)
    keys = schema.keys
    table = pd.read_csv(train).sort_values([keys.patient, keys.timestep])
    lengths = table.groupby(keys.patient).size()
    if lengths.nunique() > 1:
        sys.exit(
            f"dgan: {train} has records of {lengths.min()} to {lengths.max()} rows; DGAN needs one length"
        )
    T = int(lengths.iloc[0])
    static = [v for v in schema.variables if v.static]
    varying = [v for v in schema.variables if not v.static]
    labels = {
        v.name: {str(name): c for c, pair in enumerate(v.classes.items()) for name in pair}
        for v in schema.variables
        if v.kind != "real"
    }

    def values(v, column):  # type: ignore[no-untyped-def]
        if v.kind == "real":
            return column.to_numpy(float)
        text = column.astype(str).str.removesuffix(".0")
        return text.map(labels[v.name]).to_numpy(float)

    features = np.stack([values(v, table[v.name]).reshape(-1, T) for v in varying], -1)
    attributes = np.stack([values(v, table[v.name])[::T] for v in static], -1) if static else None

    def kinds(variables):  # type: ignore[no-untyped-def]
        return [OutputType.CONTINUOUS if v.kind == "real" else OutputType.DISCRETE for v in variables]

    def trained(epochs: int) -> DGAN:
        config = DGANConfig(
            max_sequence_len=T,
            sample_len=next(n for n in range(min(T, 8), 0, -1) if T % n == 0),
            batch_size=min(100, len(features)),
            epochs=epochs,
            cuda=False,
        )
        model = DGAN(config)
        model.train_numpy(
            features.astype(object),
            kinds(varying),
            None if attributes is None else attributes.astype(object),
            kinds(static) if static else None,
        )
        return model

    def seconds(epochs: int) -> float:
        start = time.process_time()
        trained(epochs)
        return time.process_time() - start

    first = seconds(1)  # sets up, too
    an_epoch = (seconds(5) - first) / 4
    epochs = max(1, round(minutes * 60 / an_epoch))
    print(f"dgan: {epochs} epochs fit into {minutes:g} min", flush=True)
    made_static, each = trained(epochs).generate_numpy(patients)
    made = np.stack(each)
    columns = {
        keys.patient: np.repeat(np.arange(patients), T),
        keys.timestep: np.tile(np.arange(T), patients),
    }
    for i, v in enumerate(varying):
        columns[v.name] = made[:, :, i].ravel()
    for i, v in enumerate(static):
        columns[v.name] = np.repeat(made_static[:, i], T)
    frame = pd.DataFrame(columns)
    for v in schema.variables:
        if v.kind != "real":
            frame[v.name] = frame[v.name].astype(float).astype(int).map(dict(enumerate(v.labels)))
    frame.to_csv(out, index=False)


if __name__ == "__main__":
    train, schema, minutes, out, *rest = sys.argv[1:]
    main(Path(train), Path(schema), float(minutes), Path(out), *(int(each) for each in rest))
