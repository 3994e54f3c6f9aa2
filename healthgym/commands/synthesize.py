"""Make a synthetic cohort from a trained run. The same command starts and resumes it."""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--run-dir", type=Path, help="a training run; its newest checkpoint is used")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint file instead")
    parser.add_argument("--patients", type=int, required=True, help="number of patients of the whole cohort")
    parser.add_argument("--out", type=Path, required=True, help="the cohort's folder")
    parser.add_argument("--format", dest="file_format", help="hdf5 (default), parquet or csv")
    parser.add_argument(
        "--one-file", type=Path, help="all patients also in this .csv, .csv.gz, .parquet or .h5"
    )
    parser.add_argument(
        "--compression", help="hdf5: gzip, lzf, none; parquet: zstd, snappy, gzip, none; csv: none, gzip"
    )
    parser.add_argument("--seed", type=int, help="of the cohort (0)")
    parser.add_argument("--patients-per-shard", type=int, help="patients in one file (4096)")
    parser.add_argument("--batch-size", type=int, help="patients sampled at once (512; GPU: a shard)")
    parser.add_argument(
        "--timesteps", type=int, help="of each patient; by default as in the training patients"
    )
    parser.add_argument(
        "--where",
        action="append",
        help="conditions, e.g. Gender=Female, Age=60..80, timesteps=24..48",
    )
    parser.add_argument("--shares", help="shares of classes, e.g. Gender=Female:0.5,Male:0.5")
    parser.add_argument("--set", dest="settings", action="append", help="e.g. system.sampler.kind=dpmpp")
    parser.add_argument("--matmul-precision", help="highest (default), high or medium: faster, less precise")
    parser.add_argument("--device", help="cpu, cuda, or auto (default)")
    parser.add_argument(
        "--workers", type=int, help="processes (one per granted core; on a GPU they pack and write)"
    )
    parser.add_argument("--task", help="i/n: every n-th shard from the i-th on (else as Slurm's array says)")
    from healthgym.launch.executor import add_arguments, launch
    from healthgym.launch.jobs import SynthesizeJob
    from healthgym.programs import ended

    add_arguments(parser)
    options = vars(parser.parse_args(argv))
    on, dry_run = options.pop("on"), options.pop("dry_run", False)
    return ended(lambda: launch(SynthesizeJob.of(**options), on, dry_run), on == "debug")
