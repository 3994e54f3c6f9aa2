"""Everything that decides the bytes of a cohort, and who makes which shard."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from healthgym.errors import CohortError, ConfigError
from healthgym.faults import sentence
from healthgym.files import read_text
from healthgym.seeds import uniform_rows
from healthgym.storage.shard_file import COMPRESSIONS, Compression, FileFormat
from healthgym.strict import Positive, StrictModel, differences, parse

PLAN_FILE = "plan.json"


class SynthesisPlan(StrictModel):
    """A cohort's recipe: two cohorts of one plan have the same bytes, whoever makes them.

    Args:
        form: version of the way from plan to bytes; a release that changes the bytes counts it up.
        checkpoint_sha256: the trained system.
        seed: of the noise and of the lengths.
        num_patients: patients in the whole cohort.
        patients_per_shard: patients in each shard but the last.
        batch_size: patients per call of the generator; float32 products round differently by batch.
        file_format: of the shards.
        compression: of the shards' columns.
        timesteps: a number for all patients, or `training`: drawn from the training patients' lengths.
        device: the kind of device, since CPU and GPU round differently.
        where, shares: which patients, as `healthgym.synthesis.conditions` reads them; all kinds if empty.
        settings: of how the system samples, as `key.path=value`, where not those it was trained with.
        matmul_precision: as `healthgym.nn.precision` has it. Shards of `medium` agree among processors of
            one kind only.
    """

    form: Literal[3] = 3
    checkpoint_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    seed: int = 0
    num_patients: Positive
    patients_per_shard: Positive = 4096
    batch_size: Positive = 512
    file_format: FileFormat = "hdf5"
    compression: Compression = "gzip"
    timesteps: Positive | Literal["training"] = "training"
    where: tuple[str, ...] = ()
    shares: str = ""
    settings: tuple[str, ...] = ()
    device: Literal["cpu", "cuda"] = "cpu"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"

    @model_validator(mode="after")
    def _check(self) -> "SynthesisPlan":
        known = COMPRESSIONS[self.file_format]
        if self.compression not in known:
            raise ValueError(
                f"compression '{self.compression}' is not for {self.file_format}; choose {', '.join(known)}"
            )
        return self

    @property
    def sha256(self) -> str:
        """The plan's name in receipts."""
        # What version 0.1.0 did not know is left out where it is not used: its cohorts keep their name.
        later = {name for name in ("where", "shares") if not getattr(self, name)}
        values = self.model_dump(exclude=later)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """Shards of the whole cohort."""
        return -(-self.num_patients // self.patients_per_shard)

    def patients(self, shard: int) -> range:
        """Return the numbers of a shard's patients."""
        first = shard * self.patients_per_shard
        return range(first, min(first + self.patients_per_shard, self.num_patients))

    def lengths(self, shard: int, histogram: Mapping[int, int]) -> NDArray[np.int32]:
        """Return the timesteps of each of a shard's patients, shape (N,).

        Args:
            shard: its number.
            histogram: {length: training patients of that length}.
        """
        patients = self.patients(shard)
        if self.timesteps != "training":
            return np.full(len(patients), self.timesteps, dtype=np.int32)
        lengths = np.array(sorted(histogram), dtype=np.int32)
        up_to = np.cumsum([histogram[int(length)] for length in lengths])
        u_N = uniform_rows((), len(patients), patients.start, self.seed, "synthesis", "length")
        place_N = np.searchsorted(up_to, u_N.astype(np.float64) * up_to[-1], side="right")
        return np.asarray(lengths[place_N], dtype=np.int32)


def parse_task(text: str) -> tuple[int, int]:
    """Turn "2/8" into (2, 8): the third of eight tasks.

    Raises:
        ConfigError: it is not i/n with 0 <= i < n.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ConfigError(f"--task {text}: expected i/n with i from 0 to n - 1, such as 0/8.")
    return int(number), int(count)


def deal(num_shards: int, task: int, num_tasks: int) -> range:
    """Return the shards of one task: every `num_tasks`-th, so that loads differ by one at most."""
    return range(task, num_shards, num_tasks)


def read_plan(folder: Path) -> SynthesisPlan | None:
    """Return the plan of the cohort begun in a folder, or None.

    Raises:
        CohortError: there is a plan, and it cannot be read.
    """
    path = folder / PLAN_FILE
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CohortError(f"Cannot read {path}: {error}. Choose another folder with --out.") from error
    content = content if isinstance(content, dict) else {}
    ours = SynthesisPlan.model_fields["form"].default
    if isinstance(form := content.get("form"), int) and form != ours:
        raise CohortError(
            f"{path} is of form {form}, this version of healthgym makes form {ours}: other shards from the "
            f"same settings. If the cohort is complete, read it as it is; else finish it with the version "
            f"that began it, or choose another folder with --out."
        )
    return parse(SynthesisPlan, content, str(path), CohortError)


def agree(folder: Path, plan: SynthesisPlan) -> None:
    """Begin a cohort in a folder, or make sure that the one begun there has this very plan.

    Raises:
        CohortError: the folder holds another plan (with the difference), something else, or cannot
            be written.
    """
    try:
        if not (folder / PLAN_FILE).exists():
            _begin(folder, plan)
    except OSError as error:
        raise CohortError(
            sentence(error, folder, "begin a cohort in")
            or f"Cannot begin a cohort in {folder}: {error}. Choose another folder with --out."
        ) from error
    begun = read_plan(folder)
    if begun is not None and begun != plan:
        lines = "\n".join(f"  - {line}" for line in differences(begun, plan))
        raise CohortError(
            f"{folder} holds a cohort that was begun with other settings:\n{lines}\n"
            f"Give the settings it was begun with, or choose another folder with --out."
        )


def _begin(folder: Path, plan: SynthesisPlan) -> None:
    """Write the plan unless another task was faster: a link never replaces a file."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "shards").exists() or (folder / "manifest.json").exists():
        raise CohortError(
            f"{folder} holds shards or a manifest, but no {PLAN_FILE} that says how they were made. Choose "
            f"another folder with --out."
        )
    beside = folder / f".{PLAN_FILE}.{uuid4().hex[:12]}.tmp"
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(plan.model_dump(), indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            (folder / PLAN_FILE).hardlink_to(beside)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            beside.replace(folder / PLAN_FILE)
    finally:
        beside.unlink(missing_ok=True)
