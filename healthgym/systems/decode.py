"""From soft features to classes and scaled reals; static variables constant by construction.

Shapes: B patients, T timesteps, F features, R reals, K categorical variables.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym.errors import CohortError
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.patients import Disagreement, Made, Making
from healthgym.systems.transfer import Transfer, to_device

STATIC_REAL_TOLERANCE = 0.01
"""Largest difference between a raw static real and its patient's mean, relative to the training range,
that does not count as a disagreement."""


def decode(x_BTF: Tensor, lengths_B: NDArray[np.integer[Any]], layout: FeatureLayout) -> Made:
    """Take the class of the largest score; for static variables, combine all kept timesteps.

    A static class is that of the largest mean score over the patient's timesteps, a static real the mean of
    the scaled values.

    Args:
        x_BTF: the result of `System.sample_features`.
        lengths_B: timesteps to keep of each patient.
        layout: which variables are static.

    Raises:
        CohortError: the system generated numbers that are not finite.
    """
    return begin_decode(x_BTF, lengths_B, layout)()


def begin_decode(x_BTF: Tensor, lengths_B: NDArray[np.integer[Any]], layout: FeatureLayout) -> Making:
    """Begin `decode` on the device; the returned function waits for the result."""
    transfer, positions = Transfer(_decoded(x_BTF, lengths_B, layout)), _static_positions(layout)

    def finish() -> Made:
        arrays = transfer.arrays()
        if not np.isfinite(arrays["total"]):  # the sum is not finite if any number is not
            raise CohortError(
                "The trained system generates numbers that are not finite. Choose an earlier checkpoint "
                "with --checkpoint."
            )
        counts = zip(positions, arrays["disagreements"].tolist(), strict=True)
        return Made(
            arrays["reals"],
            arrays["codes"],
            lengths_B,
            disagreements={position: Disagreement(*count) for position, count in counts},
        )

    return finish


def _static_positions(layout: FeatureLayout) -> list[int]:
    """Return the indices of static variables among all, reals first."""
    return [k for k, static in enumerate((*layout.static_reals, *layout.static_classes)) if static]


def _decoded(x_BTF: Tensor, lengths_B: NDArray[np.integer[Any]], layout: FeatureLayout) -> dict[str, Tensor]:
    """Return reals (R, T, B), codes (K, T, B), disagreements of static variables (S, 2), and a sum of all."""
    kept_B = to_device(lengths_B.astype(np.int64), x_BTF.device)
    x_FTB = x_BTF.permute(2, 1, 0).contiguous()
    kept_TB = torch.arange(x_FTB.shape[1], device=x_BTF.device).unsqueeze(1) < kept_B
    reals_RTB, codes_KTB = x_FTB[: layout.num_reals].clone(), _classes(x_FTB, layout)
    disagreements: list[Tensor] = []
    for real_TB, static in zip(reals_RTB, layout.static_reals, strict=True):
        if static:
            mean_B = (real_TB * kept_TB).sum(0) / kept_B
            disagreements.append(_count(((real_TB - mean_B).abs() > STATIC_REAL_TOLERANCE) & kept_TB))
            real_TB[:] = mean_B
    for index, (code_TB, static) in enumerate(zip(codes_KTB, layout.static_classes, strict=True)):
        if static:
            score_CB = (x_FTB[layout.spans[index]] * kept_TB).sum(1)
            class_B = score_CB.argmax(0).to(torch.uint8)
            disagreements.append(_count((code_TB != class_B) & kept_TB))
            code_TB[:] = class_B
    none = torch.zeros(0, 2, dtype=torch.int64, device=x_BTF.device)
    return {
        "reals": reals_RTB,
        "codes": codes_KTB,
        "disagreements": torch.stack(disagreements) if disagreements else none,
        "total": x_BTF.sum(),
    }


def _classes(x_FTB: Tensor, layout: FeatureLayout) -> Tensor:
    """Return the class of the largest score in each block, the first one among equals, uint8 (K, T, B)."""
    codes_KTB = torch.empty(len(layout.spans), *x_FTB.shape[1:], dtype=torch.uint8, device=x_FTB.device)
    for code_TB, span in zip(codes_KTB, layout.spans, strict=True):
        # Plane by plane: an argmax along such a short axis costs five times as much.
        best_TB = x_FTB[span.start].clone()
        code_TB.zero_()
        for number, score_TB in enumerate(x_FTB[span.start + 1 : span.stop], start=1):
            code_TB.masked_fill_(score_TB > best_TB, number)
            torch.maximum(best_TB, score_TB, out=best_TB)
    return codes_KTB


def _count(differs_TB: Tensor) -> Tensor:
    """Return the numbers of timesteps and of patients, int64 (2,)."""
    return torch.stack([differs_TB.sum(), differs_TB.any(0).sum()])
