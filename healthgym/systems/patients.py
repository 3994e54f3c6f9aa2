"""Data of patients: training batches, facts about the training cohort, and sampled patients.

Shapes: B batch, T timesteps, F features, R reals, K binary and categorical variables.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym.nn.heads import decode_classes, one_hot
from healthgym.schema.cells import Cells
from healthgym.schema.layout import FeatureLayout


@dataclass(frozen=True)
class Batch:
    """Training patients on the device. Timesteps beyond a patient's length are padding with zeros.

    Args:
        layout: meaning of the variables.
        reals_BTR: real variables, in the form of `System.real_form`: float32 scaled to [0, 1], or int16 codes
            of cells.
        codes_BTK: class indices, uint8.
        lengths_B: timesteps of each patient, int64, at most T.
        is_padded: whether patients may have fewer than T timesteps, known without synchronising with the
            device; a system then masks the padding.
    """

    layout: FeatureLayout
    reals_BTR: Tensor
    codes_BTK: Tensor
    lengths_B: Tensor
    is_padded: bool = False

    @classmethod
    def of_features(cls, layout: FeatureLayout, x_BTF: Tensor) -> "Batch":
        """Return a batch of patients of full length with given features."""
        B, T, _ = x_BTF.shape
        lengths_B = torch.full((B,), T, device=x_BTF.device)
        batch = cls(layout, x_BTF[..., : layout.num_reals], decode_classes(x_BTF, layout), lengths_B)
        vars(batch)["x_BTF"] = x_BTF
        return batch

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the batch by name."""
        return {name: getattr(self, name) for name in ("reals_BTR", "codes_BTK", "lengths_B")}

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def num_timesteps(self) -> int:
        """T, at least the length of the longest patient."""
        return self.codes_BTK.shape[1]

    @cached_property
    def x_BTF(self) -> Tensor:
        """Features: scaled reals, then a one-hot block per binary or categorical variable."""
        return one_hot(self.reals_BTR, self.codes_BTK, self.layout)

    @cached_property
    def mask_BT(self) -> Tensor:
        """Whether each timestep is not padding, bool."""
        timestep_T = torch.arange(self.num_timesteps, device=self.lengths_B.device)
        return timestep_T < self.lengths_B[:, None]

    def rows(self, rows: slice) -> "Batch":
        """Return some of the patients, padded to the same length."""
        tensors = self.reals_BTR[rows], self.codes_BTK[rows], self.lengths_B[rows]
        part = Batch(self.layout, *tensors, self.is_padded)
        for name in ("x_BTF", "mask_BT"):
            if name in vars(self):
                vars(part)[name] = vars(self)[name][rows]
        return part


@dataclass(frozen=True)
class CohortFacts:
    """Facts about the training patients for building a system.

    Args:
        cells: of their real variables; None if they were prepared without.
        num_patients: their number.
        max_length: largest number of timesteps of patients that a system may generate.
        mean_length: mean number of timesteps.
    """

    cells: Cells | None = None
    num_patients: int = 0
    max_length: int = 1
    mean_length: float = 1.0


NO_FACTS = CohortFacts()


class Disagreement(NamedTuple):
    """How often the raw output of a static variable varied within patients.

    Args:
        timesteps: number of timesteps that differ from the patient's value.
        patients: number of patients with such a timestep.
    """

    timesteps: int
    patients: int


@dataclass(frozen=True)
class Made:
    """Sampled patients; timesteps beyond a patient's length have no meaning.

    Args:
        reals_RTB: real variables, float32: scaled to [0, 1], or in the variables' units.
        codes_KTB: class indices, uint8.
        lengths_B: timesteps of each patient, int64.
        scaled: whether the reals are scaled.
        disagreements: of static variables, by their index among all R + K (reals first); empty for systems
            whose static variables are constant by construction.
    """

    reals_RTB: NDArray[np.float32]
    codes_KTB: NDArray[np.uint8]
    lengths_B: NDArray[np.integer[Any]]
    scaled: bool = True
    disagreements: Mapping[int, Disagreement] = field(default_factory=dict)

    def patients(self, chosen: slice) -> "Made":
        """Return some of the patients, without disagreements."""
        return Made(
            self.reals_RTB[..., chosen], self.codes_KTB[..., chosen], self.lengths_B[chosen], self.scaled
        )


Making: TypeAlias = Callable[[], Made]
"""Patients that a device is computing: a call waits for them and returns them."""
