"""Everything fitted to the training patients: transforms, cells, correlations."""

from healthgym.data.fitting.transform import Transform

__all__ = ["Transform"]
