"""Everything that determines the bytes of a cohort, and the assignment of shards to tasks."""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from healthgym.errors import CohortError, ConfigError
from healthgym.faults import sentence
from healthgym.files import fsync_folder, read_text, write_json
from healthgym.seeds import uniform_rows
from healthgym.storage.cohort_folder import (
    PLAN_FILE,
    count_receipts,
    manifest_path,
    plan_path,
)
from healthgym.storage.forms import COMPRESSIONS, Compression, FileFormat
from healthgym.strict import Positive, StrictModel, differences, parse


class SynthesisPlan(StrictModel):
    """Everything that determines a cohort: cohorts with equal plans have the same bytes.

    Args:
        form: version of the algorithm from plan to bytes; it is increased when the bytes change.
        checkpoint_sha256: of the trained system.
        seed: of the noise and of the lengths.
        num_patients: of the whole cohort.
        earlier: number of patients before each enlargement that found its last shard incomplete; that shard
            is not changed, and the next one begins there.
        patients_per_shard: patients in each shard except the last, and the last before each enlargement.
        batch_size: patients per call of the generator; float32 products round differently by batch.
        file_format: of the shards.
        compression: of the shards' columns.
        timesteps: a number for all patients, or `training`: drawn from the training patients' lengths. A
            system that generates lengths samples patients of that number.
        device: the kind of device, since CPU and GPU round differently.
        where, shares: conditions on the patients (`healthgym.synthesis.conditions`); unconditional if empty.
        settings: sampling settings that differ from those in the checkpoint, as `key.path=value`.
        matmul_precision: see `healthgym.nn.precision`. Shards of `medium` have the same bytes only on
            processors of the same kind.
    """

    form: Literal[4] = 4
    checkpoint_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    seed: int = 0
    num_patients: Positive
    earlier: tuple[Positive, ...] = ()
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
        ends = (0, *self.earlier, self.num_patients)
        if any(end <= before for before, end in pairwise(ends)):
            raise ValueError("earlier: expected rising numbers below num_patients")
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of the plan, for the manifest."""
        return _names(self)[-1]

    def name(self, shard: int) -> str:
        """Return the SHA-256 for a shard's receipt, of everything that determines the bytes of the shard.

        The total number of patients is not included, so that a cohort can be enlarged; the number of patients
        of a shard is compared with its receipt instead.
        """
        first = self.patients(shard).start
        return _names(self)[sum(end <= first for end in self.earlier)]

    @property
    def num_shards(self) -> int:
        """Number of shards of the whole cohort."""
        return sum(len(firsts) for firsts in self._firsts())

    def patients(self, shard: int) -> range:
        """Return the range of a shard's patients."""
        for firsts in self._firsts():
            if shard < len(firsts):
                return range(firsts[shard], min(firsts[shard] + self.patients_per_shard, firsts.stop))
            shard -= len(firsts)
        raise IndexError(f"there are {self.num_shards} shards")

    def _firsts(self) -> list[range]:
        """Return the first patient of each shard, as one range for the first cohort and each enlargement."""
        ends = (0, *self.earlier, self.num_patients)
        return [range(start, end, self.patients_per_shard) for start, end in pairwise(ends)]

    def enlarged(self, num_patients: int) -> "SynthesisPlan":
        """Return the plan of the enlarged cohort, which keeps this plan's shards."""
        begun = self.earlier[-1] if self.earlier else 0
        full = (self.num_patients - begun) % self.patients_per_shard == 0
        earlier = self.earlier if full else (*self.earlier, self.num_patients)
        return self.model_copy(update={"num_patients": num_patients, "earlier": earlier})

    def lengths(self, shard: int, histogram: Mapping[int, int]) -> NDArray[np.int32]:
        """Return the number of timesteps of each of a shard's patients, shape (N,).

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


@lru_cache
def _names(plan: SynthesisPlan) -> tuple[str, ...]:
    """Return the hash of the plan for the first cohort and for each enlargement."""
    values = plan.model_dump(exclude={"num_patients"})
    states = [values | {"earlier": plan.earlier[:count]} for count in range(len(plan.earlier) + 1)]
    return tuple(hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest() for state in states)


def parse_task(text: str) -> tuple[int, int]:
    """Turn "2/8" into (2, 8): the third of eight tasks.

    Raises:
        ConfigError: it is not i/n with 0 <= i < n.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ConfigError(f"--task {text}: expected i/n with i from 0 to n - 1, such as 0/8.")
    return int(number), int(count)


def shards_of_task(num_shards: int, task: int, num_tasks: int) -> range:
    """Return the shards of one task: every `num_tasks`-th, so that numbers differ by at most one."""
    return range(task, num_shards, num_tasks)


def read_plan(folder: Path) -> SynthesisPlan | None:
    """Return the plan of the cohort begun in a folder, or None.

    Raises:
        CohortError: the plan cannot be read.
    """
    path = plan_path(folder)
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
            f"{path} has format {form}, but this version of healthgym makes format {ours}, with other shards "
            "from the same settings. If the cohort is complete, read it as it is; otherwise finish it with "
            "the version that began it, or choose another folder with --out."
        )
    return parse(SynthesisPlan, content, str(path), CohortError)


def settle(folder: Path, wanted: SynthesisPlan) -> SynthesisPlan:
    """Return the plan for beginning, resuming or enlarging the cohort in a folder.

    Nothing is written. The plan of a cohort without finished shards may be replaced; a complete cohort may be
    enlarged.

    Raises:
        CohortError: the folder has another plan; the message lists the differences.
    """
    begun = read_plan(folder)
    if begun is None or begun == wanted.model_copy(update={"earlier": begun.earlier}):
        return begun or wanted
    if not count_receipts(folder) and not manifest_path(folder).exists():
        return wanted
    lines = differences(begun, wanted.model_copy(update={"earlier": begun.earlier}))
    more = wanted.num_patients > begun.num_patients
    if len(lines) == 1 and more and _patients_in_manifest(folder) == begun.num_patients:
        return begun.enlarged(wanted.num_patients)
    listed_lines = "\n".join(f"  - {line}" for line in lines)
    remedy = "Give the settings it was begun with, or choose another folder with --out."
    if len(lines) == 1 and more:
        remedy = "Finish it with the number it was begun with, then give the larger one."
    elif len(lines) == 1 and wanted.num_patients != begun.num_patients:
        remedy = f"It has {begun.num_patients:,} patients; choose another folder with --out for fewer."
    raise CohortError(
        f"{folder} holds a cohort that was begun with other settings:\n{listed_lines}\n{remedy}"
    )


def agree(folder: Path, wanted: SynthesisPlan) -> SynthesisPlan:
    """Begin, resume or enlarge a cohort in a folder; return its plan.

    Raises:
        CohortError: the folder has another plan (with the differences) or other files, or cannot be written.
    """
    try:
        if not plan_path(folder).exists():
            _begin(folder, wanted)
        plan = settle(folder, wanted)
        if plan != read_plan(folder):
            if not count_receipts(folder):
                _clear(folder)
            write_json(folder / PLAN_FILE, plan.model_dump())
    except OSError as error:
        raise CohortError(
            sentence(error, folder, "begin a cohort in")
            or f"Cannot begin a cohort in {folder}: {error}. Choose another folder with --out."
        ) from error
    return plan


def require_own(folder: Path, plan: SynthesisPlan) -> None:
    """Check that no other cohort was begun in the folder in the meantime.

    Raises:
        CohortError: the plan in the folder is another one.
    """
    if read_plan(folder) != plan:
        raise CohortError(
            f"{folder}: another command has begun a cohort there with other settings. Give each command its "
            "own folder with --out."
        )


def _clear(folder: Path) -> None:
    """Delete unfinished shards."""
    for left in (folder / "shards").glob("shard-*"):
        left.unlink(missing_ok=True)


def _patients_in_manifest(folder: Path) -> int:
    """Return the number of patients in the manifest; 0 without manifest."""
    try:
        content = json.loads(read_text(manifest_path(folder)))
    except (FileNotFoundError, ValueError):
        return 0
    found = content.get("num_patients") if isinstance(content, dict) else 0
    return found if isinstance(found, int) else 0


def _begin(folder: Path, plan: SynthesisPlan) -> None:
    """Write the plan unless another task was faster: making a link never replaces a file."""
    folder.mkdir(parents=True, exist_ok=True)
    foreign = (folder / "shards").exists() or manifest_path(folder).exists()
    if plan_path(folder).exists():  # another task was faster, and may have written shards since
        return
    if foreign:
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
        fsync_folder(folder)
    finally:
        beside.unlink(missing_ok=True)
