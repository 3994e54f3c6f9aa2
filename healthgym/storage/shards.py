"""A synthetic cohort on disk: shards, their receipts, and the manifest that marks it as complete.

    cohort/_plan.json                      everything that determines the bytes
    cohort/shards/shard-00000.h5           patients 0, 1, ... in the form of `storage.shard_file`
    cohort/_receipts/shard-00000.json      written after the shard: its size, SHA-256 and plan
    cohort/_columns.csv                    what the columns mean
    cohort/_manifest.json                  written last

A shard counts as finished only if receipt, plan and file agree. Names of files that are not data begin with
an underscore, since programs that read a folder of Parquet files skip such names. In cohorts made before
version 0.1.0 they have no underscore.
"""

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from healthgym.errors import CohortError, listed
from healthgym.faults import patiently, reading, sentence
from healthgym.files import read_text, remove_stale, sha256_of, write_bytes, write_json, write_text
from healthgym.schema import Schema
from healthgym.storage.cohort_folder import (
    COLUMNS_FILE,
    MANIFEST_FILE,
    RECEIPTS,
    count_receipts,
    manifest_path,
    plan_path,
)
from healthgym.storage.formats.table import frame_of, table_of
from healthgym.storage.forms import Compression, FileFormat
from healthgym.storage.shard import Shard, columns_table
from healthgym.storage.shard_file import encode_shard, read_shard, suffix
from healthgym.strict import StrictModel, parse

_TRIES = 3
_SHA256 = r"^[0-9a-f]{64}$"
# No other names are allowed: a manifest from elsewhere cannot point outside its folder.
_FILE = r"^shards/shard-[0-9]{5,9}\.(h5|parquet|csv|csv\.gz)$"


class Disagreement(StrictModel):
    """How often the raw output for a static variable differed from the written value.

    Args:
        timesteps: rows whose raw value differed.
        patients: patients with at least one such row.
    """

    timesteps: int = Field(ge=0)
    patients: int = Field(ge=0)

    def __add__(self, other: "Disagreement") -> "Disagreement":
        return Disagreement(
            timesteps=self.timesteps + other.timesteps, patients=self.patients + other.patients
        )


class ShardRecord(StrictModel):
    """A line of the manifest."""

    file: str = Field(pattern=_FILE)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)
    patients: int = Field(gt=0)
    rows: int = Field(gt=0)

    def agrees_with(self, folder: Path) -> bool:
        """Return whether the file exists and has the recorded size and content.

        Raises:
            UnreadableError: the file cannot be read, so that this cannot be decided.
        """
        path = folder / self.file

        def look() -> bool:
            with reading(path):
                if not path.is_file():
                    return False
                return path.stat().st_size == self.bytes and sha256_of(path) == self.sha256

        return patiently(look, f"reading {path}")


class Receipt(StrictModel):
    """The record of a finished shard.

    `plan` is the plan's SHA-256; `candidates` counts the patients sampled, including those that a guardrail
    rejected.
    """

    kind: Literal["synthetic cohort receipt"] = "synthetic cohort receipt"
    version: Literal[1] = 1
    shard: int = Field(ge=0)
    plan: str = Field(pattern=_SHA256)
    record: ShardRecord
    candidates: int = Field(gt=0)
    static_disagreement: dict[str, Disagreement]


class Manifest(StrictModel):
    """The manifest of a complete cohort.

    `training_patients` has the numbers used at full length, shortened and left out; `decimals` and `dates`
    are those of `Shard`.
    """

    kind: Literal["synthetic cohort"] = "synthetic cohort"
    version: Literal[1] = 1
    description: str
    num_patients: int = Field(gt=0)
    num_rows: int = Field(gt=0)
    checkpoint_sha256: str = Field(pattern=_SHA256)
    seed: int
    plan_sha256: str = Field(pattern=_SHA256)
    plan: dict[str, Any]
    software: dict[str, str]
    acceptance_rate: float = Field(gt=0, le=1)
    static_disagreement: dict[str, dict[str, float]]
    training_patients: dict[str, Any] = Field(default_factory=dict)
    decimals: dict[str, int] = Field(default_factory=dict)
    dates: dict[str, bool] = Field(default_factory=dict)
    cohort_schema: str
    shards: tuple[ShardRecord, ...] = Field(min_length=1)


def shard_name(index: int) -> str:
    """Return "shard-00012"."""
    return f"shard-{index:05d}"


def save_shard(
    folder: Path,
    index: int,
    shard: Shard,
    plan: str,
    file_format: FileFormat,
    compression: Compression,
    static_disagreement: dict[str, Disagreement],
) -> Receipt:
    """Write a shard, then its receipt, each atomically.

    Raises:
        CohortError: the folder cannot be written, with the reason.
    """
    content = encode_shard(shard, file_format, compression)
    record = ShardRecord(
        file=f"shards/{shard_name(index)}{suffix(file_format, compression)}",
        bytes=len(content),
        sha256=sha256(content).hexdigest(),
        patients=len(shard.lengths_N),
        rows=shard.num_rows,
    )
    receipt = Receipt(
        shard=index,
        plan=plan,
        record=record,
        candidates=shard.num_candidates or record.patients,
        static_disagreement=static_disagreement,
    )
    for tries_left in reversed(range(_TRIES)):
        try:
            write_bytes(folder / record.file, content)
            write_json(receipt_path(folder, index), receipt.model_dump())
            break
        except FileNotFoundError as error:  # a second writer of this shard deleted our temporary file
            if not tries_left:
                raise unwritable(folder / record.file, error) from error
        except OSError as error:
            raise unwritable(folder / record.file, error) from error
    return receipt


def unwritable(path: Path, error: OSError) -> CohortError:
    """Return the error for a file that cannot be written."""
    said = sentence(error, path, "write") or f"Cannot write {path}: {error}."
    return CohortError(f"{said} Finished shards are kept: the same command makes the others.")


def receipt_path(folder: Path, index: int) -> Path:
    """Return the path of a shard's receipt."""
    return folder / RECEIPTS / f"{shard_name(index)}.json"


def read_receipt(folder: Path, index: int, plan: str, patients: int) -> Receipt | None:
    """Return a shard's receipt if there is a valid one for this plan; the shard itself is not read.

    Args:
        folder: the cohort's.
        index: the shard's number.
        plan: the plan's SHA-256.
        patients: number of patients it must have.

    Raises:
        UnreadableError: the file system refuses to read it.
    """
    try:
        text = read_text(receipt_path(folder, index))
        receipt = parse(Receipt, json.loads(text), "receipt", CohortError)
    except (FileNotFoundError, ValueError, TypeError, CohortError):
        return None
    named = Path(receipt.record.file).name.partition(".")[0] == shard_name(index)
    own = (receipt.plan, receipt.shard, receipt.record.patients) == (plan, index, patients)
    return receipt if own and named else None


def finished_shard(folder: Path, index: int, plan: str, patients: int) -> Receipt | None:
    """Return a shard's receipt if the file agrees with it: then the shard is skipped."""
    receipt = read_receipt(folder, index, plan, patients)
    return receipt if receipt and receipt.record.agrees_with(folder) else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the table of columns and then the manifest, which marks the cohort as complete.

    Several writers at once are harmless: they write the same bytes.
    """
    schema = Schema.from_json(manifest.cohort_schema)
    try:
        write_text(folder / COLUMNS_FILE, columns_table(schema, manifest.decimals, manifest.dates))
        write_json(folder / MANIFEST_FILE, manifest.model_dump())
    except OSError as error:
        raise unwritable(folder / MANIFEST_FILE, error) from error


def remove_left_overs(folder: Path, older_than: float = 0.0, shards: Iterable[int] | None = None) -> None:
    """Delete temporary files of killed writers in a cohort's folders.

    Args:
        folder: the cohort's.
        older_than: a time as of `time.time()`; 0 means of any age.
        shards: only files of these shards.
    """
    if shards is None:
        for each in (folder, folder / "shards", folder / RECEIPTS):
            remove_stale(each, older_than)
        return
    mine = {shard_name(index) for index in shards}
    for each in (folder / "shards", folder / RECEIPTS):
        for left in each.glob(".shard-*.tmp"):
            if left.name.split(".")[1] in mine:
                left.unlink(missing_ok=True)


# --- reading -------------------------------------------------------------------------------------


class CohortReader:
    """A complete cohort, read shard by shard; memory holds one shard at a time."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @cached_property
    def schema(self) -> Schema:
        """What the columns mean."""
        return Schema.from_json(self.manifest.cohort_schema)

    @property
    def num_patients(self) -> int:
        """Number of patients of the cohort."""
        return self.manifest.num_patients

    @property
    def num_rows(self) -> int:
        """Number of timesteps of all patients."""
        return self.manifest.num_rows

    def verify(self) -> None:
        """Compare every shard's size and SHA-256 with the manifest.

        Raises:
            CohortError: names the missing and the altered shards.
        """
        missing = [r.file for r in self.manifest.shards if not (self.folder / r.file).is_file()]
        altered = [
            r.file for r in self.manifest.shards if r.file not in missing and not r.agrees_with(self.folder)
        ]
        self._complain(missing, altered)

    def iter_frames(self, verify: bool = True) -> Iterator[pd.DataFrame]:
        """Yield each shard as a long table: keys, float32 reals, categoricals of labels; blanks are NaN.

        Args:
            verify: check a shard's SHA-256 before it is read.
        """
        for record in self.manifest.shards:
            path = self.folder / record.file
            if not path.is_file():
                self._complain([record.file], [])
            if verify and not record.agrees_with(self.folder):
                self._complain([], [record.file])
            yield read_shard(path, self.schema)

    def read(self, num_patients: int | None = None) -> pd.DataFrame:
        """Return the first `num_patients` patients (all without it) as one table."""
        wanted = self.num_patients if num_patients is None else min(num_patients, self.num_patients)
        key, frames = self.schema.keys.patient, []
        for frame in self.iter_frames():
            frames.append(frame if int(frame[key].iloc[-1]) < wanted else frame[frame[key] < wanted])
            if int(frame[key].iloc[-1]) + 1 >= wanted:
                break
        return pd.concat(frames, ignore_index=True)

    def iter_shards(self, verify: bool = True) -> Iterator[Shard]:
        """Yield each shard as it was made."""
        decimals, dates = self.manifest.decimals, self.manifest.dates
        for frame in self.iter_frames(verify):
            yield Shard.from_frame(frame, self.schema, decimals, dates)

    def table(self) -> pd.DataFrame:
        """Return all patients as one table: labels, numbers and dates in the form of the training data.

        Raises:
            CohortError: a shard is missing or altered.
        """
        return frame_of([table_of(shard) for shard in self.iter_shards()])

    def _complain(self, missing: list[str], altered: list[str]) -> None:
        problems = [
            f"{len(files)} of {len(self.manifest.shards)} shards {what}: {listed(files)}"
            for what, files in (("are missing", missing), ("do not match their checksum", altered))
            if files
        ]
        if problems:
            raise CohortError(
                f"Cohort {self.folder} is not what its manifest says: {'; '.join(problems)}. Give the "
                f"command that made it again: it makes these shards again, with the same bytes."
            )


def open_cohort(folder: Path) -> CohortReader:
    """Open a complete synthetic cohort.

    Raises:
        CohortError: there is no manifest, it is damaged, or its totals contradict its shards.
    """
    path = manifest_path(folder)
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise CohortError(_unfinished(folder)) from None
    except ValueError as error:
        raise CohortError(f"Cannot read {path}: {error}. Use another copy of the cohort.") from error
    manifest = parse(Manifest, content if isinstance(content, dict) else {}, str(path), CohortError)
    for total, what in ((manifest.num_patients, "patients"), (manifest.num_rows, "rows")):
        found = sum(getattr(record, what) for record in manifest.shards)
        if found != total:
            raise CohortError(
                f"{path} says {total} {what}, but its shards have {found}. Use another copy of the cohort."
            )
    return CohortReader(folder, manifest)


def _unfinished(folder: Path) -> str:
    if not plan_path(folder).is_file():
        return f"{folder} is not a synthetic cohort: it has no {MANIFEST_FILE}. Check the path."
    return (
        f"Cohort {folder} is not complete: it has no {MANIFEST_FILE}, and {count_receipts(folder)} shards "
        f"are finished. Give the command that began it again: it makes the others."
    )
