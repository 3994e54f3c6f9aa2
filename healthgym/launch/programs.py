"""Start and end of every program: paths in UTF-8, robust output, errors as sentences."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from healthgym.errors import ConfigError, HealthgymError
from healthgym.faults import sentence

ENDED = 130
"""Exit status of a program that Ctrl-C ended before it could save, as in a shell."""


def ended(work: Callable[[], int], debug: bool = False) -> int:
    """Run a program's work and return its exit status.

    Errors that a user can correct, and errors of the file system, are printed as a sentence; the status is
    then 1. Ctrl-C ends it with `ENDED`, unless the work handles it.

    Args:
        work: returns an exit status.
        debug: let every exception through, with its traceback.
    """
    with steady_output():
        try:
            require_utf8([*sys.argv[1:], _working_folder()])
            return work()
        except KeyboardInterrupt:
            if debug:
                raise
            return stopped()
        except (HealthgymError, OSError, RuntimeError, ValueError) as error:
            said = str(error) if isinstance(error, HealthgymError) else sentence(error)
            if debug or said is None:
                raise
            if said:
                print(f"error: {said}", file=sys.stderr, flush=True)
            return 1


def stopped() -> int:
    """Say that Ctrl-C ended the work, and return the exit status."""
    print("stopped; no file is left half written. The same command starts again or resumes.", file=sys.stderr)
    return ENDED


def require_utf8(arguments: Sequence[str]) -> None:
    """Refuse paths that are not UTF-8, the encoding of paths in settings, plans, records and cards.

    Raises:
        ConfigError: names the first such path.
    """
    for text in arguments:
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(text).decode(errors="backslashreplace")
            raise ConfigError(
                f"The path {shown} is not valid UTF-8, in which paths are recorded. Rename that file or "
                "folder, or give a link to it that has another name: ln -s OLD NEW."
            ) from None


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted: code that needs it will fail with its own message
        return ""


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """Keep failures of standard output or standard error from ending the work inside the block.

    The reader of a pipe may exit (`| head -1`), the disk of a log may be full, and a terminal's encoding may
    lack a character.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Steady(sys.stdout), _Steady(sys.stderr)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Steady:
    """A text stream that ignores failures of the stream beneath it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, or drop it on failure."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._left(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop the buffered text on failure."""
        try:
            self._stream.flush()
        except OSError as error:
            self._left(error)

    def _left(self, error: OSError) -> None:
        """Redirect a closed pipe to /dev/null: Python flushes buffered text at its exit."""
        if isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
