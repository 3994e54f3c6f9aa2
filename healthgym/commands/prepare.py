"""Turn a clinical table into a prepared cohort: check it, hold out patients, fit the transform."""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument(
        "schema",
        type=Path,
        help="what the columns mean: a YAML file, or a shipped one's name, e.g. art_hiv; or the "
        "table itself, which is described first",
    )
    parser.add_argument(
        "--table",
        type=Path,
        help="a CSV, TSV (.gz, .bz2, .xz, .zst) or Parquet file, a folder of such, or a 'pattern*' in quotes",
    )
    parser.add_argument("--dataset", help="instead of --table: art_hiv (downloaded) or simulated_art_hiv")
    parser.add_argument("--out", type=Path, required=True, help="the prepared cohort to write (HDF5)")
    parser.add_argument(
        "--tables", type=Path, help="folder for train.csv and holdout.csv, for other programs"
    )
    parser.add_argument("--holdout", type=float, default=0.2, help="share of patients held out (0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out patients and the simulation (0)")
    parser.add_argument("--max-patients", type=int, help="use only this number of patients, lowest ids first")
    parser.add_argument(
        "--least-patients",
        type=int,
        default=10,
        help="for `ar`: pool values of fewer than this number of training patients (10)",
    )
    parser.add_argument("--sort", action="store_true", help="sort rows that are out of order")
    parser.add_argument("--cache", type=Path, help="folder for downloaded files (or $HEALTHGYM_CACHE)")
    parser.add_argument("--separator", default="", help="of fields: a character, comma, semicolon, tab, ...")
    parser.add_argument("--decimal", default="", help="mark of numbers: . or ,")
    parser.add_argument(
        "--encoding", default="", help="of the text, e.g. latin-1; all three are detected if not given"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a cohort made with other settings")
    from healthgym.launch.executor import add_arguments, launch

    add_arguments(parser)
    options = vars(parser.parse_args(argv))
    on, dry_run = options.pop("on"), options.pop("dry_run")

    from healthgym.launch.jobs import PrepareJob
    from healthgym.programs import ended

    def work() -> int:
        from healthgym.data.describe.command import described

        return launch(PrepareJob.of(**described(options)), on, dry_run)

    return ended(work, on == "debug")
