"""Numbers of training patients by static classes, which conditions on synthetic patients are checked against.

Legend: N patients, S static variables, G combinations of classes that occur.
"""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of patients by combination of static classes.

    Args:
        names: of the S static binary and categorical variables.
        codes_GS: class indices of each combination that occurs.
        counts_G: patients who have it.
    """

    names: tuple[str, ...]
    codes_GS: NDArray[np.int64]
    counts_G: NDArray[np.int64]

    @classmethod
    def of_patients(cls, codes_NS: NDArray[np.uint8], names: Sequence[str]) -> "ClassCounts":
        """Count patients, given their static classes."""
        codes_GS, counts_G = np.unique(codes_NS, axis=0, return_counts=True)
        return cls(tuple(names), codes_GS.astype(np.int64), counts_G.astype(np.int64))

    def number_with(self, allowed: Mapping[str, Set[int]]) -> int:
        """Return the number of patients who have one of the allowed classes of each variable."""
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
