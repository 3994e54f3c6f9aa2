"""Show the jobs submitted for a folder, and their progress."""

from healthgym.commands.asking import answer
from healthgym.launch.requests import StatusRequest


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return answer(StatusRequest, _status, str(__doc__), argv, prog)


def _status(asked: StatusRequest) -> int:
    from healthgym.launch import status

    return status.main(asked.folder, asked.all, asked.as_json)
