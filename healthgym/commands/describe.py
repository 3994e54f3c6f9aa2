"""Draft the schema of a table, which prepare needs, with the evidence for each guess.

healthgym describe visits.csv      writes visits.yaml, and prints what could not be decided and the next
commands
"""

from healthgym.commands.asking import answer
from healthgym.data.request import DescribeRequest


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return answer(DescribeRequest, _describe, str(__doc__), argv, prog)


def _describe(asked: DescribeRequest) -> int:
    from healthgym.data.describe.command import run

    print(run(asked))
    return 0
