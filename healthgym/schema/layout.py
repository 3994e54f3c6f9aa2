"""The shape of an encoded timestep: reals first, then one block of columns per categorical variable."""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class FeatureLayout:
    """Which encoded features (columns of x_BTF) belong to which variable.

    Args:
        num_reals: R, real variables, one column each, in columns 0..R-1.
        num_classes: classes of each binary or categorical variable, in the order of their blocks.
        embedding_dims: width of each such variable's embedding in the critic (binary 2, categorical 4).
        static_reals, static_classes: whether each real, and each binary or categorical variable, is constant
            within a patient; by default none is.
        flag_of_reals, flag_of_classes: for each variable with `missing: model`, the index of its measured
            flag among the K binary and categorical variables; None for variables without missing values.
        flags: indices of the K variables that are measured flags, in increasing order.
        measured_classes: for each of `flags`, the class that means "measured".
    """

    num_reals: int
    num_classes: tuple[int, ...]
    embedding_dims: tuple[int, ...]
    static_reals: tuple[bool, ...] = ()
    static_classes: tuple[bool, ...] = ()
    flag_of_reals: tuple[int | None, ...] = ()
    flag_of_classes: tuple[int | None, ...] = ()
    flags: tuple[int, ...] = ()
    measured_classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Fill in defaults: an entry for each variable."""
        sizes = {"reals": self.num_reals, "classes": len(self.num_classes)}
        for kind, size in sizes.items():
            for name, value in ((f"static_{kind}", False), (f"flag_of_{kind}", None)):
                object.__setattr__(self, name, getattr(self, name) or (value,) * size)

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """The columns of each categorical block."""
        spans, start = [], self.num_reals
        for width in self.num_classes:
            spans.append(slice(start, start + width))
            start += width
        return tuple(spans)

    @property
    def num_features(self) -> int:
        """F, all encoded columns."""
        return self.num_reals + sum(self.num_classes)

    @property
    def num_embedded(self) -> int:
        """E, the width of a timestep after the critic's soft embedding."""
        return self.num_reals + sum(self.embedding_dims)
