"""Everything that decides the bytes of a cohort, and who makes which shard."""

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
from healthgym.files import read_text, write_json
from healthgym.seeds import uniform_rows
from healthgym.storage.cohort_folder import (
    PLAN_FILE,
    count_receipts,
    manifest_path,
    plan_path,
)
from healthgym.storage.shard_file import COMPRESSIONS, Compression, FileFormat
from healthgym.strict import Positive, StrictModel, differences, parse


class SynthesisPlan(StrictModel):
    """All that determines a cohort: cohorts with equal plans have the same bytes.

    Args:
        form: version of the way from plan to bytes; a release that changes the bytes counts it up.
        checkpoint_sha256: the trained system.
        seed: of the noise and of the lengths.
        num_patients: patients in the whole cohort.
        earlier: how many there were before each enlargement, where that did not fill the last shard, which
            stays as it is: the next one begins there.
        patients_per_shard: patients in each shard but the last, and the last before each enlargement.
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
        """The plan's name in the manifest."""
        return _names(self)[-1]

    def name(self, shard: int) -> str:
        """Return the plan's name in a shard's receipt: a SHA-256 of what decides the bytes of such shards.

        The number of all patients is not among it, so that a cohort can be enlarged; how many patients a
        receipt must have is compared with it.
        """
        first = self.patients(shard).start
        return _names(self)[sum(end <= first for end in self.earlier)]

    @property
    def num_shards(self) -> int:
        """Shards of the whole cohort."""
        return sum(len(firsts) for firsts in self._firsts())

    def patients(self, shard: int) -> range:
        """Return the numbers of a shard's patients."""
        for firsts in self._firsts():
            if shard < len(firsts):
                return range(firsts[shard], min(firsts[shard] + self.patients_per_shard, firsts.stop))
            shard -= len(firsts)
        raise IndexError(f"there are {self.num_shards} shards")

    def _firsts(self) -> list[range]:
        """Return the first patient of each shard: as the cohort was begun, and of each enlargement."""
        ends = (0, *self.earlier, self.num_patients)
        return [range(start, end, self.patients_per_shard) for start, end in pairwise(ends)]

    def enlarged(self, num_patients: int) -> "SynthesisPlan":
        """Return the plan of a cohort that has this one's shards, and more."""
        begun = self.earlier[-1] if self.earlier else 0
        full = (self.num_patients - begun) % self.patients_per_shard == 0
        earlier = self.earlier if full else (*self.earlier, self.num_patients)
        return self.model_copy(update={"num_patients": num_patients, "earlier": earlier})

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


@lru_cache
def _names(plan: SynthesisPlan) -> tuple[str, ...]:
    """Return the plan's name as it was begun and after each enlargement."""
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


def deal(num_shards: int, task: int, num_tasks: int) -> range:
    """Return the shards of one task: every `num_tasks`-th, so that loads differ by one at most."""
    return range(task, num_shards, num_tasks)


def read_plan(folder: Path) -> SynthesisPlan | None:
    """Return the plan of the cohort begun in a folder, or None.

    Raises:
        CohortError: there is a plan, and it cannot be read.
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
            f"{path} is of form {form}, this version of healthgym makes form {ours}: other shards from the "
            f"same settings. If the cohort is complete, read it as it is; else finish it with the version "
            f"that began it, or choose another folder with --out."
        )
    return parse(SynthesisPlan, content, str(path), CohortError)


def settle(folder: Path, wanted: SynthesisPlan) -> SynthesisPlan:
    """Return the plan by which a cohort in a folder is begun, gone on with or enlarged.

    Nothing is written. A cohort without any finished shard may be begun anew with another plan; a complete
    one may be enlarged.

    Raises:
        CohortError: the folder holds another plan, with the difference.
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
    """Begin a cohort in a folder, go on with it or enlarge it; return the plan that is in force there.

    Raises:
        CohortError: the folder holds another plan (with the difference), something else, or cannot
            be written.
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
    """Make sure that nobody began another cohort in the folder meanwhile.

    Raises:
        CohortError: somebody did.
    """
    if read_plan(folder) != plan:
        raise CohortError(
            f"{folder}: another command began a cohort there with other settings, so that this one ends. "
            f"Give each a folder of its own with --out."
        )


def _clear(folder: Path) -> None:
    """Delete shards that nobody finished."""
    for left in (folder / "shards").glob("shard-*"):
        left.unlink(missing_ok=True)


def _patients_in_manifest(folder: Path) -> int:
    """Return how many patients the cohort has that was declared complete; 0 if none was."""
    try:
        content = json.loads(read_text(manifest_path(folder)))
    except (FileNotFoundError, ValueError):
        return 0
    found = content.get("num_patients") if isinstance(content, dict) else 0
    return found if isinstance(found, int) else 0


def _begin(folder: Path, plan: SynthesisPlan) -> None:
    """Write the plan unless another task was faster: a link never replaces a file."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "shards").exists() or manifest_path(folder).exists():
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
