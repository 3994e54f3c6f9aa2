"""Open what is to be judged: a cohort folder, a CSV, a Parquet file, or a prepared cohort."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from healthgym.data.sequences import PreparedCohort, schema_of
from healthgym.data.stages import in_a_sentence
from healthgym.data.tables.reading import FORMS
from healthgym.data.tables.sources import SIMULATED, list_tables, read_files
from healthgym.data.tables.table import check_table
from healthgym.errors import CohortError, ConfigError, TableError, listed
from healthgym.evaluation.comparison import Side
from healthgym.evaluation.foreign import IN_MEMORY, read_foreign
from healthgym.evaluation.statistics.panel import Panel, join, panel_from_frame
from healthgym.evaluation.statistics.scale import Scale
from healthgym.evaluation.statistics.sufficient import Combination, SufficientStatistics, statistics_of
from healthgym.schema import Schema, load_schema
from healthgym.schema.schema import UNNAMED
from healthgym.seeds import permutation
from healthgym.storage.cohort_folder import MANIFEST_FILE, is_cohort, manifest_path
from healthgym.storage.shards import Manifest, open_cohort

_BLOCK = 20_000


@dataclass(frozen=True)
class Source:
    """Patients that can be walked through without holding all of them.

    Args:
        name: for messages.
        num_patients: all of them.
        panels: called, walks through them block by block, in order.
        facts: what is known of their origin, for the report.
        raw_static: share of timesteps at which the generator's raw output for a static variable differed.
        schema: the part of the schema that it has, if not all.
        unfit: share of rows, by column and what does not fit the schema there.
        remarks: what does not fit, in sentences.
    """

    name: str
    num_patients: int
    panels: Callable[[], Iterator[Panel]]
    facts: dict[str, str] = field(default_factory=dict)
    raw_static: dict[str, float] = field(default_factory=dict)
    schema: Schema | None = None
    unfit: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def open_synthetic(cohort: Path | pd.DataFrame, schema: Schema) -> Source:
    """Open a cohort to be judged: a folder of shards, a CSV or Parquet file, a folder of such files, a table.

    What does not fit the schema is no error here: the report counts it.

    Raises:
        HealthgymError: it cannot be read, or is of shards that were made with other variables.
    """
    if isinstance(cohort, Path) and is_cohort(cohort):
        return _open_shards(cohort, schema)
    if isinstance(cohort, Path) and cohort.is_dir() and not list_tables(cohort):
        raise CohortError(
            f"{cohort} is not a synthetic cohort: it has neither a {MANIFEST_FILE} nor a table "
            f"({', '.join(FORMS)}). Check the path."
        )
    if isinstance(cohort, Path) and cohort.suffix.lower() == ".h5":
        raise CohortError(
            f"{cohort}: a cohort in one HDF5 file cannot be evaluated. Give the folder of its shards, or a "
            "CSV or Parquet file (synthesize --one-file)."
        )
    read, name = read_foreign(cohort, schema), str(cohort) if isinstance(cohort, Path) else IN_MEMORY
    source = source_of(panel_from_frame(read.frame, read.schema, name), name)
    return replace(source, schema=read.schema, unfit=read.unfit, remarks=read.remarks)


def _open_shards(path: Path, schema: Schema) -> Source:
    reader = open_cohort(path)
    _check_same_variables(reader.schema, schema, path)
    reader.verify()
    manifest = reader.manifest
    return Source(
        str(path),
        reader.num_patients,
        lambda: (panel_from_frame(frame, schema, str(path)) for frame in reader.iter_frames(verify=False)),
        _origin(manifest),
        {name: rates["timestep_rate"] for name, rates in manifest.static_disagreement.items()},
    )


def _origin(manifest: Manifest) -> dict[str, str]:
    """Return what a manifest says of a cohort's origin: checkpoint, training patients, who was asked for."""
    facts = {"synthetic from": f"checkpoint {manifest.checkpoint_sha256[:16]}, seed {manifest.seed}"}
    if manifest.training_patients:
        facts["trained on"] = in_a_sentence(manifest.training_patients)
    if where := manifest.plan.get("where"):
        facts["only patients with"] = "; ".join(where)
    if shares := manifest.plan.get("shares"):
        facts["shares asked for"] = str(shares)
    return facts


def schema_for(schema: Path | None, real: Path) -> Schema:
    """Return the schema in a file, or that which the real patients carry.

    Raises:
        HealthgymError: there is none, or it cannot be read.
    """
    if schema is not None:
        return load_schema(schema)
    if real.suffix.lower() == ".h5":
        return schema_of(real)
    raise ConfigError(
        f"{real} has no schema: give --schema FILE. Only a prepared cohort (.h5) contains its schema."
    )


def stated_patients(path: Path) -> int | None:
    """Return how many (training) patients a prepared cohort or a cohort folder has; None for others."""
    if path.suffix.lower() == ".h5":
        return PreparedCohort.open(path, verify=False).train.num_patients
    return open_cohort(path).num_patients if manifest_path(path).exists() else None


def open_real(
    real: Path | pd.DataFrame | PreparedCohort,
    schema: Schema,
    split: Literal["train", "holdout"] = "train",
    compared: Schema | None = None,
) -> Source:
    """Open real patients: tables that fit the schema without exception, or a prepared cohort.

    Args:
        real: a CSV or Parquet file, a folder of them, or a prepared cohort; or one that is open, or a table.
        schema: what its columns mean.
        split: which part of a prepared cohort.
        compared: the part of the schema that the synthetic cohort has; all of it by default.

    Raises:
        HealthgymError: it cannot be read or does not fit the schema.
    """
    compared = compared or schema
    if isinstance(real, Path) and real.suffix.lower() != ".h5":
        table = pd.concat([part for _, part in read_files(real, schema)]).rename_axis(index="line")
        frame = check_table(table, schema, str(real), sort=True)
        return source_of(panel_from_frame(frame, compared, str(real)), str(real))
    if isinstance(real, pd.DataFrame):
        frame = check_table(real, schema, IN_MEMORY, sort=True)
        return source_of(panel_from_frame(frame, compared, IN_MEMORY), IN_MEMORY)
    prepared = PreparedCohort.open(real) if isinstance(real, Path) else real
    path = real if isinstance(real, Path) else "the prepared cohort"
    if prepared.schema.fingerprint != schema.fingerprint:
        raise TableError(
            f"{path} was prepared with the schema '{prepared.schema.name}', which is not the '{schema.name}' "
            f"given. Give the schema that it was prepared with."
        )
    num_patients = {"train": prepared.train, "holdout": prepared.holdout}[split].num_patients

    def panels() -> Iterator[Panel]:
        for first in range(0, num_patients, _BLOCK):
            frame = prepared.frame(split, first, min(first + _BLOCK, num_patients))
            yield panel_from_frame(frame, compared, str(path))

    facts = {"prepared cohort": prepared.fingerprint[:16]}
    made_from = str(prepared.recipe.get("table", ""))
    if made_from.startswith(SIMULATED):
        facts["real patients"] = f"none: simulated patients stand for them ({made_from})"
    return Source(f"{path} ({split})", num_patients, panels, facts)


def title_of(schema: Schema, real: Source) -> str:
    """Return the title of a report, which says so if the patients used as real ones are simulated."""
    title = schema.title or ("Synthetic cohort" if schema.name == UNNAMED else schema.name)
    return f"{title} (simulated patients)" if "real patients" in real.facts else title


def source_of(panel: Panel, name: str) -> Source:
    """Return a source of patients that are in memory already."""

    def panels() -> Iterator[Panel]:
        for start in range(0, panel.num_patients, _BLOCK):
            yield panel.take(np.arange(start, min(start + _BLOCK, panel.num_patients)))

    return Source(name, panel.num_patients, panels)


def sample(source: Source, num_patients: int, seed: int) -> Panel:
    """Return some patients, chosen at random; all where there are no more."""
    chosen = np.sort(permutation(source.num_patients, seed, "sample")[:num_patients])
    return join([block.take(here) for block, here in _with_chosen(source, chosen)])


def side_of(
    source: Source,
    name: str,
    scale: Scale,
    combinations: Sequence[Combination],
    num_patients: int,
    seed: int,
    num_timesteps: int,
    counted: Sequence[Combination] = (),
) -> Side:
    """Walk once through a source: sum over all patients, keep a random sample of them.

    Args:
        source: the patients.
        name: of the set, for the report.
        scale: for the reals.
        combinations: static variables to be crossed.
        num_patients: at most this many are kept.
        seed: of the sample.
        num_timesteps: what is later is cut off.
        counted: further combinations of variables whose patients are counted.
    """
    chosen = np.sort(permutation(source.num_patients, seed, "sample")[:num_patients])
    kept: list[Panel] = []
    total: SufficientStatistics | None = None
    bar = tqdm(total=source.num_patients, desc=f"reading {name}", unit="patient", disable=None)
    for block, here in _with_chosen(source, chosen):
        panel = block.first(num_timesteps).on(scale)
        lengths = np.bincount(block.lengths_N).astype(np.int64)  # before the cut
        statistics = replace(statistics_of(panel, [*combinations, *counted]), lengths=lengths)
        total = statistics if total is None else total + statistics
        kept.append(panel.take(here))
        bar.update(panel.num_patients)
    bar.close()
    return Side(name, join(kept), combinations, total, seed)


def _with_chosen(source: Source, chosen: NDArray[np.int64]) -> Iterator[tuple[Panel, NDArray[np.int64]]]:
    """Yield each block with the positions in it of the chosen patients."""
    start = 0
    for block in source.panels():
        stop = start + block.num_patients
        yield block, chosen[(chosen >= start) & (chosen < stop)] - start
        start = stop


def _check_same_variables(found: Schema, wanted: Schema, path: Path) -> None:
    """Refuse a cohort folder whose variables or labels are not those of the schema."""
    theirs = {variable.name: variable for variable in found.encoded}
    absent = [variable.name for variable in wanted.encoded if variable.name not in theirs]
    if absent:
        raise TableError(
            f"{path} lacks {listed(absent)}; it has {listed(theirs)}. Use the schema that the cohort was "
            "made with."
        )
    for variable in wanted.encoded:
        labels = theirs[variable.name].labels
        if set(labels) - set(variable.labels):
            raise CohortError(
                f"{path}, '{variable.name}': the cohort has the labels {listed(labels)}, the schema "
                f"{listed(variable.labels)}. Use the schema that the cohort was made with."
            )
