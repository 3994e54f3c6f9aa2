"""Numbers of training patients by static variables, for checks of conditions on synthetic patients.

Legend: N patients, S static variables, G combinations of classes and pieces that occur.
"""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = ""
"""Stands for the number of timesteps among the names of variables, none of which is empty."""


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of patients by combination of static classes and of pieces of static reals and lengths.

    Args:
        names: of the S static variables; `LENGTH` is the number of timesteps. Those of systems that take no
            conditions, and those of version 0.1.0, have binary and categorical variables only.
        codes_GS: class indices and pieces (`schema.cells`) of each combination that occurs.
        counts_G: patients who have it.
    """

    names: tuple[str, ...]
    codes_GS: NDArray[np.int64]
    counts_G: NDArray[np.int64]

    @classmethod
    def of_patients(cls, codes_NS: NDArray[np.integer[Any]], names: Sequence[str]) -> "ClassCounts":
        """Count patients, given their static classes and pieces."""
        codes_GS, counts_G = np.unique(codes_NS, axis=0, return_counts=True)
        return cls(tuple(names), codes_GS.astype(np.int64), counts_G.astype(np.int64))

    def number_with(self, allowed: Mapping[str, Set[int]]) -> int:
        """Return the number of patients who have one of the allowed classes or pieces of each variable."""
        good_G = np.ones(len(self.counts_G), bool)
        for name, classes in allowed.items():
            good_G &= np.isin(self.codes_GS[:, self.names.index(name)], list(classes))
        return int(self.counts_G[good_G].sum())

    def to_text(self) -> str:
        """Return the counts as JSON."""
        values = {"codes": self.codes_GS.tolist(), "counts": self.counts_G.tolist()}
        return json.dumps({"names": self.names} | values, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "ClassCounts":
        """Read the result of `to_text`."""
        values = json.loads(text)
        shape = len(values["counts"]), len(values["names"])
        codes_GS = np.array(values["codes"], np.int64).reshape(shape)
        return cls(tuple(values["names"]), codes_GS, np.array(values["counts"], np.int64))
