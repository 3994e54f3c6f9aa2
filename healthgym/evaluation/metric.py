"""What a metric is, in words; each registers itself where it is declared."""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module

_SECTIONS = "healthgym.evaluation.sections"


@dataclass(frozen=True)
class Metric:
    """What a metric is, in words.

    Args:
        key: "section.metric", as in the thresholds.
        title: two or three words.
        what: one to three plain sentences that say what it is.
        source: where the definition comes from.
        style: how numbers are written: "number", "percent" or "count".
        note: what to know about this value.
        counts_all: whether all patients are counted where other metrics see a sample.
        gross: whether only a cohort that resembles hardly any real patient fails it; attacks on such a cohort
            fail without being evidence of privacy.
    """

    key: str
    title: str
    what: str
    source: str
    style: str = "number"
    note: str = ""
    counts_all: bool = False
    gross: bool = False

    def of(self, name: str, what: str, source: str) -> "Metric":
        """Return the metric of one of several things that the settings name, such as an endpoint."""
        return replace(
            self, key=f"{self.key}:{name}", title=f"{self.title}: {name}", what=what, source=source
        )


_METRICS: dict[str, dict[str, Metric]] = {}


def metric(
    key: str,
    title: str,
    what: str,
    source: str,
    style: str = "number",
    *,
    counts_all: bool = False,
    gross: bool = False,
) -> Metric:
    """Declare a metric of a section, at the top of its module; a threshold can then be given for it.

    Raises:
        ValueError: there is one of this key already.
    """
    declared = Metric(key, title, what, source, style, counts_all=counts_all, gross=gross)
    section, _, name = key.partition(".")
    if name in _METRICS.setdefault(section, {}):
        raise ValueError(f"There are two metrics '{key}'.")
    _METRICS[section][name] = declared
    return declared


def metrics() -> Mapping[str, Mapping[str, Metric]]:
    """Return all metrics by section and name.

    Every module of the sections is imported by name, since the sections themselves import the settings,
    which ask for this.
    """
    for module in pkgutil.walk_packages(import_module(_SECTIONS).__path__, f"{_SECTIONS}."):
        import_module(module.name)
    return _METRICS
