"""`healthgym COMMAND ...`: runs a command; the files in `jobs/` run one command each."""

import sys
from importlib import import_module

from healthgym import __version__
from healthgym.errors import nearest
from healthgym.launch.programs import steady_output, stopped

COMMANDS = {
    "describe": "draft the schema of a table, which prepare needs",
    "prepare": "check a table, hold out patients, fit the transform",
    "train": "train a system, or resume its training",
    "synthesize": "make a synthetic cohort from a trained run",
    "evaluate": "compare a cohort with real patients, in a report",
    "compare": "compare several trained systems on one page",
    "release": "make a shareable release of a checkpoint, with a card",
    "inspect": "print what is in a checkpoint",
    "audit": "try to link a checkpoint's latent memory to its patients",
    "pipeline": "submit prepare, train, synthesize and evaluate at once",
    "status": "show the jobs of a folder and their progress",
}
_ENDS = """\
exit status:
    0  done
    1  an error, explained in a sentence
    2  the command line is wrong
   85  stopped and saved; the same command resumes
   86  a newer process has taken over the folder
  130  stopped by Ctrl-C before it could save
  137  another process of the same job was lost

`healthgym COMMAND --help` says more. Presets and schemas go by name: `healthgym train ar --data p.h5`."""


def main(argv: list[str] | None = None) -> int:
    """Run the command that is named first, and return its exit status."""
    with steady_output():  # the reader may close the pipe: healthgym --help | head
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt:  # while it imports, when no program has begun
            return stopped()


def _run(words: list[str]) -> int:
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if first == "--version":
        print(f"healthgym {__version__}")
        return 0
    if first not in COMMANDS:
        print(f"healthgym: there is no command '{first}'{nearest(first, COMMANDS)}\n", file=sys.stderr)
        print(usage(), file=sys.stderr)
        return 2
    run = import_module(f"healthgym.commands.{first}").main
    return int(run(words[1:], f"healthgym {first}"))


def usage() -> str:
    """Return the list of commands and of exit statuses."""
    lines = [f"  {name:<11}{what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: healthgym COMMAND ...", "", *lines, "", _ENDS])
