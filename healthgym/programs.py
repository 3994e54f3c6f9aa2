"""How every program begins and ends: paths in UTF-8, output that ends no work, errors in a sentence."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from healthgym.errors import ConfigError, HealthgymError
from healthgym.faults import sentence


def ended(work: Callable[[], int], debug: bool = False) -> int:
    """Run a program's work and return its exit status.

    What a user can mend, and what the file system refuses, becomes a sentence and the status 1.

    Args:
        work: returns an exit status.
        debug: let every exception through, with its traceback.
    """
    with steady_output():
        try:
            require_utf8([*sys.argv[1:], _working_folder()])
            return work()
        except (HealthgymError, OSError, RuntimeError, ValueError) as error:
            said = str(error) if isinstance(error, HealthgymError) else sentence(error)
            if debug or said is None:
                raise
            if said:
                print(f"error: {said}", file=sys.stderr, flush=True)
            return 1


def require_utf8(arguments: Sequence[str]) -> None:
    """Refuse paths that are no UTF-8, the encoding in which settings, plans, records and cards keep them.

    Raises:
        ConfigError: with the first one.
    """
    for text in arguments:
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(text).decode(errors="backslashreplace")
            raise ConfigError(
                f"The path {shown} has bytes that are not UTF-8, in which paths are kept. Rename that file "
                f"or folder, or give a link to it that has another name: ln -s OLD NEW."
            ) from None


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted: whatever needs it will say so
        return ""


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """Let no failure of standard output or standard error end the work inside the block.

    Whoever reads a pipe may leave (`| head -1`), the disk that holds a log may be full, and the encoding of a
    terminal may lack a letter.
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
    """A text stream that goes on where the one beneath it fails."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._left(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, or drop it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._left(error)

    def _left(self, error: OSError) -> None:
        """Where nobody reads any more, lead to nowhere what is buffered: Python flushes it at its exit."""
        if isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
