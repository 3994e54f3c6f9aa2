"""Errors a user can cause. Each message says what, where, what was expected and what to do."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches


class HealthgymError(Exception):
    """Any error that a user can correct; programs print its message without a traceback."""


class ConfigError(HealthgymError):
    """A setting is unknown, missing or out of range."""


class SchemaError(HealthgymError):
    """A schema contradicts itself."""


class TableError(HealthgymError):
    """A clinical table does not fit its schema."""


class FetchError(HealthgymError):
    """A public data set could not be downloaded or is not what was published."""


class StorageError(HealthgymError):
    """A file is missing, truncated, altered, or of another kind or version."""


class UnreadableError(StorageError):
    """A file that may be intact cannot be read: no permission, no lock, a server is down."""


class CohortError(HealthgymError):
    """A cohort folder is incomplete, altered, or made with other settings."""


class DivergenceError(HealthgymError):
    """Training diverges: a loss or a weight is not finite, or a loss is far beyond its usual size.

    Args:
        message: what was found.
        since: the first step after which the weights may be bad.
    """

    def __init__(self, message: str, since: int = 0) -> None:
        super().__init__(message)
        self.since = since


class SamplingError(HealthgymError):
    """A system cannot make patients that its guardrail accepts."""


class FailingReleaseError(HealthgymError):
    """A system fails its report, and no reason was given for releasing it nevertheless."""


class FencedError(HealthgymError):
    """A newer process has taken over this run folder; this one must stop writing."""


class RankError(HealthgymError):
    """Another process of the same training was lost, or failed and reports the error itself.

    Args:
        message: empty if another process reports the error.
        lost: whether a process was lost, as in a crash, so that the same job may be tried again.
    """

    def __init__(self, message: str, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class LaunchError(HealthgymError):
    """A job could not be submitted or did not end well."""


def nearest(word: object, candidates: Iterable[object]) -> str:
    """Return " (did you mean 'x'?)" for the candidate most like `word`, or nothing.

    A candidate that looks like `word`, or has invisible characters, is shown by its code points too.
    """
    by_lower = {str(candidate).lower(): str(candidate) for candidate in candidates}
    same = [lower for lower in by_lower if _looks(lower) == _looks(str(word))]
    close = same or get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    if not close:
        return ""
    found = by_lower[close[0]]
    alike = bool(same) and found.lower() != str(word).lower()
    return f" (did you mean '{found}'{f', written {found!a}' if alike else ''}?)"


def _looks(text: str) -> str:
    """Return text by its looks: compatibility characters are unified and invisible ones removed."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Zs", "Cc")).casefold()


def listed(words: Iterable[object], limit: int = 12) -> str:
    """Return "a, b, c and 4 more": at most `limit` words, for use inside a sentence."""
    shown = [str(word) for word in words]
    if len(shown) <= limit:
        return ", ".join(shown)
    return f"{', '.join(shown[:limit])} and {len(shown) - limit} more"
