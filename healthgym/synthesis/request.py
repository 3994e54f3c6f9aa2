"""Arguments of `healthgym synthesize`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import field_validator

from healthgym.options import Option
from healthgym.storage.forms import Compression, FileFormat, require_ending
from healthgym.strict import Positive, StrictModel


class SynthesisRequest(StrictModel):
    """A user's request. Requests with equal plans resume the same cohort.

    Args:
        run_dir: a training run; its best checkpoint in validation is used, or the newest if each checkpoint
            contains the best weights (`ar`) or there was no validation.
        checkpoint: a checkpoint file instead, or `newest` for the newest one of `run_dir`.
        out: the cohort's folder.
        patients: number of patients of the whole cohort; a larger number enlarges a complete cohort.
        one_file: a file for all patients, in the format of its name: .csv, .csv.gz, .parquet or .h5.
        seed: of the cohort.
        file_format, compression, patients_per_shard, batch_size, timesteps, settings, matmul_precision,
            where, shares: see `SynthesisPlan`. The default of the compression is the format's, of the batch
            size a fast one: 512 on a CPU, a whole shard on CUDA.
        device: `auto` is the device of the cohort begun in `out`, or else CUDA if available.
        workers: processes; by default one per granted core, and one on CUDA.
        task: "i/n", the i-th of n tasks that share the cohort.
    """

    run_dir: Annotated[Path | None, Option("a training run; its best checkpoint is used")] = None
    checkpoint: Annotated[
        Literal["newest"] | Path | None,
        Option("a checkpoint file instead, or the newest one of the run", metavar="FILE|newest"),
    ] = None
    out: Annotated[Path, Option("the cohort's folder")]
    patients: Annotated[Positive, Option("number of patients of the whole cohort")]
    one_file: Annotated[Path | None, Option("all patients also in this .csv, .csv.gz, .parquet or .h5")] = (
        None
    )
    seed: Annotated[int, Option("of the cohort")] = 0
    file_format: Annotated[FileFormat, Option("hdf5, parquet or csv", name="format")] = "hdf5"
    compression: Annotated[
        Compression | None,
        Option("hdf5: gzip, lzf, none; parquet: zstd, snappy, gzip, none; csv: none, gzip"),
    ] = None
    patients_per_shard: Annotated[Positive, Option("patients in one file")] = 4096
    batch_size: Annotated[Positive | None, Option("patients sampled at once (512; GPU: a shard)")] = None
    timesteps: Annotated[
        Positive | Literal["training"], Option("of each patient; by default as in the training patients")
    ] = "training"
    where: Annotated[
        tuple[str, ...], Option("conditions, e.g. Gender=Female, Age=60..80, timesteps=24..48")
    ] = ()
    shares: Annotated[str, Option("shares of classes, e.g. Gender=Female:0.5,Male:0.5")] = ""
    settings: Annotated[
        tuple[str, ...], Option("e.g. system.sampler.kind=dpmpp", name="set", metavar="KEY=VALUE")
    ] = ()
    matmul_precision: Annotated[
        Literal["highest", "high", "medium"], Option("highest, high or medium: faster, less precise")
    ] = "highest"
    device: Annotated[Literal["auto", "cpu", "cuda"], Option("cpu, cuda or auto")] = "auto"
    workers: Annotated[
        Positive | None, Option("processes (one per granted core; on a GPU they pack and write)")
    ] = None
    task: Annotated[str, Option("i/n: every n-th shard from the i-th on; else as Slurm's array says")] = "0/1"

    @field_validator("one_file")
    @classmethod
    def _check_ending(cls, path: Path | None) -> Path | None:
        if path is not None:
            require_ending(path)
        return path
