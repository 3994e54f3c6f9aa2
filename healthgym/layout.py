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
    """

    num_reals: int
    num_classes: tuple[int, ...]
    embedding_dims: tuple[int, ...]

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
