"""Draft the schema of a table, which prepare needs, with the evidence for each guess.

healthgym describe visits.csv      writes visits.yaml, and prints what could not be decided and the next
commands
"""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=raw, argument_default=argparse.SUPPRESS
    )
    add = parser.add_argument
    add(
        "table",
        type=Path,
        help="a CSV, TSV (.gz, .bz2, .xz, .zst) or Parquet file, a folder, or a 'pattern*'",
    )
    add("--out", type=Path, help="the schema to write (the table's name with .yaml)")
    add("--patient", metavar="COLUMN", help="the column of the patients, if it is known")
    add("--time", metavar="COLUMN", help="the column of the times, if it is known")
    add("--visits", choices=("irregular", "grid"), help="how visits at any time are taken")
    add("--every", type=float, metavar="WIDTH", help="of the grid's intervals, in the unit of the times")
    add("--separator", help="of fields: a character, or comma, semicolon, tab, bar, space (else detected)")
    add("--decimal", help="mark of numbers: . or , (detected if not given)")
    add("--encoding", help="of the text, e.g. latin-1 (detected if not given)")
    add("--overwrite", action="store_true", help="replace a schema that is there")
    options = vars(parser.parse_args(argv))

    from healthgym.programs import ended

    def work() -> int:
        from healthgym.data.describe.command import run

        print(run(**options))
        return 0

    return ended(work)
