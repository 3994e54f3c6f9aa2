"""The work of `healthgym prepare`: find the table, prepare it once, summarise the result."""

import filecmp
from pathlib import Path
from typing import Any

import numpy as np

from healthgym.config import CurriculumConfig
from healthgym.data.prepare import SplitSettings, prepare_parts
from healthgym.data.request import PrepareRequest
from healthgym.data.sequences import PreparedCohort
from healthgym.data.stages import stages_of, usage_of
from healthgym.data.tables.dialect import Given
from healthgym.data.tables.sources import Source, find_source
from healthgym.errors import ConfigError, StorageError, UnreadableError, listed
from healthgym.faults import refused
from healthgym.files import atomic_path, typed
from healthgym.schema import Schema, load_schema
from healthgym.schema.cells import LEAST_PATIENTS
from healthgym.storage.prepared import read_head

TABLE_PATIENTS = 2000  # written at a time
_SPLITS = ("train", "holdout")


def run(request: PrepareRequest) -> str:
    """Prepare a cohort unless it is there already, and return a summary for people.

    Raises:
        HealthgymError: with what is wrong and what to do.
    """
    check(request.holdout, request.max_patients, request.least_patients)
    schema, out, tables = load_schema(request.schema_path), request.out, request.tables
    given = Given(request.separator, request.decimal, request.encoding)
    source = find_source(
        schema, request.table, request.dataset, request.seed, request.max_patients, request.cache, given
    )
    if tables is not None:
        _refuse_own_table(source, *(tables / f"{split}.csv" for split in _SPLITS))
    shares = SplitSettings(request.holdout, request.seed, request.max_patients, request.least_patients)
    cohort, done = prepare_once(source, schema, out, shares, request.sort, request.overwrite)
    if tables is not None:
        for split in _SPLITS:
            path = tables / f"{split}.csv"
            with refused(path, "write"), atomic_path(path) as beside:
                _write_csv(cohort, split, beside)
                if path.exists() and not (request.overwrite or filecmp.cmp(path, beside, shallow=False)):
                    raise StorageError(
                        f"{path} exists already, and is not a table of this cohort. Give another folder with "
                        f"--tables, or replace it with --overwrite. {out} {done}."
                    )
    return _summary(cohort, source, out, done, tables)


def prepare_once(
    source: Source,
    schema: Schema,
    out: Path,
    split: SplitSettings,
    sort: bool = False,
    overwrite: bool = False,
) -> tuple[PreparedCohort, str]:
    """Prepare a cohort unless it exists already; return it, and a summary.

    Args:
        source: the table.
        schema: of the table.
        out: the prepared cohort.
        split, sort: see `healthgym.data.prepare.prepare_parts`.
        overwrite: whether to replace a cohort that was made from another table or with other settings.

    Raises:
        HealthgymError: with what is wrong and what to do.
    """
    recipe = {
        "table": source.identity,
        "schema": schema.fingerprint,
        "holdout": split.holdout,
        "seed": split.seed,
        "max_patients": split.max_patients,
        "least_patients": split.least_patients,
    }
    _refuse_own_table(source, out)
    made = _is_made(out, recipe, overwrite)
    cohort = _open_intact(out) if made else None
    done = "is up to date" if cohort else "was damaged and is written again" if made else "written"
    if cohort is None:
        cohort = _prepare(source, schema, out, split, sort, recipe)
    return cohort, done


def _refuse_own_table(source: Source, *outputs: Path) -> None:
    """Refuse to write over the table that is read."""
    own = {file.resolve() for file in source.files}
    for path in outputs:
        if path.resolve() in own:
            raise StorageError(f"{path} is the table itself, which would be lost. Write to another path.")


def few_patients(cohort: PreparedCohort) -> str:
    """Return a sentence on variables that too few training patients have a value of; empty if none."""
    cells = cohort.cells
    few = cells.too_few([v.name for v in cohort.schema.reals]) if cells else {}
    if cells is None or not few:
        return ""
    shown = listed(f"'{name}' ({count:,})" for name, count in few.items())
    return (
        f"fewer than {cells.least_patients} training patients (--least-patients) have a value of {shown}: "
        "what is trained on them may imitate single people. Use more patients, or remove these variables "
        "from the schema"
    )


def check(holdout: float, max_patients: int | None, least_patients: int) -> None:
    """Refuse invalid numbers of patients.

    Raises:
        ConfigError: with what to give.
    """
    if not 0 <= holdout < 1:
        raise ConfigError(
            f"--holdout {holdout:g}: give the share of patients to hold out, at least 0 and less than 1."
        )
    if max_patients is not None and max_patients < 1:
        raise ConfigError(f"--max-patients {max_patients}: give at least 1.")
    if least_patients < 1:
        raise ConfigError(f"--least-patients {least_patients}: give at least 1; {LEAST_PATIENTS} is usual.")


def _prepare(
    source: Source, schema: Schema, out: Path, split: SplitSettings, sort: bool, recipe: dict[str, Any]
) -> PreparedCohort:
    with refused(out, "write"):
        return prepare_parts(source.parts(), schema, out, split, source.name, sort, recipe)


def _write_csv(cohort: PreparedCohort, split: str, path: Path) -> None:
    """Write a split's patients as a table, a few at a time."""
    number = {"train": cohort.train, "holdout": cohort.holdout}[split].num_patients
    for first in range(0, max(1, number), TABLE_PATIENTS):
        frame = cohort.frame(split, first, first + TABLE_PATIENTS)
        frame.to_csv(path, mode="a", header=not first, index=False)


def _is_made(out: Path, recipe: dict[str, Any], overwrite: bool) -> bool:
    """Return whether `out` was made by this recipe; refuse to replace one made by another."""
    if not out.exists():
        return False
    try:
        old = read_head(out)["recipe"]
    except StorageError as error:
        if overwrite:
            return False
        raise StorageError(f"{error} Give another --out, or replace it with --overwrite.") from None
    changed = [
        f"{name}: {old.get(name)} -> {value}" for name, value in recipe.items() if old.get(name) != value
    ]
    if changed and not overwrite:
        raise StorageError(
            f"{out} was prepared differently ({'; '.join(changed)}). Give another --out, or "
            "--overwrite to replace it: runs that were trained on it can then no longer be resumed."
        )
    return not changed


def _open_intact(out: Path) -> PreparedCohort | None:
    """Open a cohort of this recipe, or return None: a damaged one can be made again."""
    try:
        return PreparedCohort.open(out)
    except UnreadableError:
        raise  # the file may be intact
    except StorageError:
        return None


def _training_lines(cohort: PreparedCohort) -> list[str]:
    """Return lines about the use of training patients with the default curriculum."""
    config, number = CurriculumConfig(), cohort.train.num_patients
    batch_size = min(config.batch_size, number)
    stages = stages_of(config.model_copy(update={"batch_size": batch_size}), cohort.train.lengths_N)
    first, *others = usage_of(stages, cohort.train, cohort.schema).lines()
    lines = [f"  training  {first} (curriculum.lengths: auto)", *(f"            {line}" for line in others)]
    if number < config.batch_size:
        fits = max(2, 1 << max(number // 8, 1).bit_length() - 1)
        lines.append(
            f"  note      v1 to v3 take batches of {config.batch_size} patients: train them with --set "
            f"curriculum.batch_size={min(fits, number)}; ar needs nothing"
        )
    return lines


def _summary(cohort: PreparedCohort, source: Source, out: Path, done: str, tables: Path | None) -> str:
    """Return a summary of a prepared cohort."""
    train, holdout, schema = cohort.train, cohort.holdout, cohort.schema
    lengths = np.concatenate([train.lengths_N, holdout.lengths_N])
    span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
    unit = schema.timestep_unit + ("s" if lengths.max() > 1 else "")
    lines = [
        f"{out} {done}: {schema.title or schema.name}, from {source.name}",
        f"  patients  {train.num_patients + holdout.num_patients:,}, of {span} {unit} "
        f"({lengths.sum(dtype=np.int64):,} rows)",
        f"  split     {train.num_patients:,} to train on, {holdout.num_patients:,} held out (seed "
        f"{cohort.recipe.get('seed')})",
        f"  features  {len(schema.reals)} real, {len(schema.categoricals)} binary or categorical: "
        f"{schema.layout.num_features} encoded columns",
    ]
    if cohort.grid:
        lines.append(f"  grid      {cohort.grid}")
    lines += _training_lines(cohort)
    if not holdout.num_patients:
        lines.append(
            "  note      no patients are held out: a report does not judge membership inference, and models "
            "can fail but not pass"
        )
    if few := few_patients(cohort):
        lines.append(f"  note      {few}")
    if tables is not None:
        lines.append(f"  tables    {tables / 'train.csv'}, {tables / 'holdout.csv'}")
    run = typed(Path("runs") / out.stem)
    lines.append(f"  next      healthgym train ar --data {typed(out)} --run-dir {run}")
    return "\n".join(lines)
