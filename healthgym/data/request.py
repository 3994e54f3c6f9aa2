"""Arguments of `healthgym describe` and `healthgym prepare`."""

from pathlib import Path
from typing import Annotated, Literal

from healthgym.config import LEAST_PATIENTS
from healthgym.options import Option
from healthgym.strict import StrictModel


class DescribeRequest(StrictModel):
    """A table whose schema is drafted."""

    table: Annotated[
        Path,
        Option(
            "a CSV, TSV (.gz, .bz2, .xz, .zst) or Parquet file, a folder, or a 'pattern*'", positional=True
        ),
    ]
    out: Annotated[Path | None, Option("the schema to write (the table's name with .yaml)")] = None
    patient: Annotated[str | None, Option("the column of the patients, if it is known", metavar="COLUMN")] = (
        None
    )
    time: Annotated[str | None, Option("the column of the times, if it is known", metavar="COLUMN")] = None
    visits: Annotated[
        Literal["irregular", "grid"] | None,
        Option("how visits at any time are taken", metavar="{irregular,grid}"),
    ] = None
    every: Annotated[
        float | None, Option("of the grid's intervals, in the unit of the times", metavar="WIDTH")
    ] = None
    separator: Annotated[
        str, Option("of fields: a character, or comma, semicolon, tab, bar, space (else detected)")
    ] = ""
    decimal: Annotated[str, Option("mark of numbers: . or , (detected if not given)")] = ""
    encoding: Annotated[str, Option("of the text, e.g. latin-1 (detected if not given)")] = ""
    overwrite: Annotated[bool, Option("replace a schema that is there")] = False


class PrepareRequest(StrictModel):
    """A user's request, by the command line or as a stage of a pipeline."""

    schema_path: Annotated[
        Path,
        Option(
            "what the columns mean: a YAML file, or a shipped one's name, e.g. art_hiv; or the table itself, "
            "which is described first",
            positional=True,
            metavar="schema",
        ),
    ]
    table: Annotated[
        Path | None,
        Option(
            "a CSV, TSV (.gz, .bz2, .xz, .zst) or Parquet file, a folder of such, or a 'pattern*' in quotes"
        ),
    ] = None
    dataset: Annotated[
        str | None, Option("instead of --table: art_hiv (downloaded) or simulated_art_hiv")
    ] = None
    out: Annotated[Path, Option("the prepared cohort to write (HDF5)")]
    tables: Annotated[Path | None, Option("folder for train.csv and holdout.csv, for other programs")] = None
    holdout: Annotated[float, Option("share of patients held out")] = 0.2
    seed: Annotated[int, Option("of the held-out patients and the simulation")] = 0
    max_patients: Annotated[int | None, Option("use only this number of patients, lowest ids first")] = None
    least_patients: Annotated[
        int, Option("for `ar`: pool values of fewer than this number of training patients")
    ] = LEAST_PATIENTS
    sort: Annotated[bool, Option("sort rows that are out of order")] = False
    cache: Annotated[Path | None, Option("folder for downloaded files (or $HEALTHGYM_CACHE)")] = None
    separator: Annotated[str, Option("of fields: a character, comma, semicolon, tab, ...")] = ""
    decimal: Annotated[str, Option("mark of numbers: . or ,")] = ""
    encoding: Annotated[str, Option("of the text, e.g. latin-1; all three are detected if not given")] = ""
    overwrite: Annotated[bool, Option("replace a cohort made with other settings")] = False
