"""Sampling of static variables: first, and again until they meet the conditions.

Rejection gives exactly the learned distribution of such patients, whichever variables were asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from healthgym.errors import CohortError
from healthgym.schema.cells import Cells
from healthgym.stopping import Stopped
from healthgym.systems.autoregressive.network import Network
from healthgym.systems.base import SampleDraws
from healthgym.systems.conditions import NO_CONDITIONS, Conditions, with_length

MOST_ATTEMPTS = 20_000
LEAST_SHARE = 1e-3  # of patients who are accepted; exp(-20) of them are then not found in so many attempts
_TRIED = 20_000  # patients by whom the share of a group is estimated


@dataclass(frozen=True)
class Static:
    """The static variables of patients.

    Args:
        classes: {k: class (B,)}.
        reals: {r: value (B,), in the variable's unit}.
        lengths_B: numbers of timesteps.
        sums_BD: running sums that the network goes on from, on its device.
    """

    classes: Mapping[int, NDArray[np.int64]]
    reals: Mapping[int, NDArray[np.float64]]
    lengths_B: NDArray[np.int64]
    sums_BD: Tensor

    def replaced(self, rows: NDArray[np.int64], by: "Static") -> "Static":
        """Return the patients with some replaced by others."""

        def put(old: NDArray[np.generic], new: NDArray[np.generic]) -> NDArray[np.generic]:
            old[rows] = new
            return old

        for k, class_B in self.classes.items():
            put(class_B, by.classes[k])
        for r, value_B in self.reals.items():
            put(value_B, by.reals[r])
        put(self.lengths_B, by.lengths_B)
        self.sums_BD[torch.from_numpy(rows).to(self.sums_BD.device)] = by.sums_BD
        return self


def draw_patients(
    network: Network,
    cells: Cells,
    draws: SampleDraws,
    conditions: Conditions = NO_CONDITIONS,
    timesteps: int | None = None,
    temperature: float = 1.0,
    most_attempts: int = MOST_ATTEMPTS,
    stop: Callable[[], object] = lambda: None,
) -> Static:
    """Sample the static variables of patients and their numbers of timesteps.

    Args:
        network: trained.
        cells: of the real variables.
        draws: their randomness, with their numbers.
        conditions: on the patients.
        timesteps: of each patient (see `with_length`); None to sample it.
        temperature: divides logits.
        most_attempts: of each patient.
        stop: called before each attempt but the first; a true value ends the work.

    Raises:
        CohortError: some are not found in so many attempts.
        Stopped: `stop` returned a true value.
    """
    everyone = np.arange(draws.num_patients)
    conditions, timesteps = with_length(conditions, timesteps, cells)
    static = _drawn(network, cells, draws, everyone, 0, timesteps, temperature)
    wanted_B = conditions.wanted(draws.uniform_rows((), "shares")) if conditions.shares else None
    left = everyone
    for attempt in range(1, most_attempts):
        good_B = conditions.accept(static.classes, static.reals, static.lengths_B, wanted_B)
        left = np.flatnonzero(~good_B)
        if not len(left):
            return static
        if stop():
            raise Stopped
        again = _drawn(network, cells, draws, left, attempt, timesteps, temperature)
        static = static.replaced(left, again)
    raise CohortError(
        f"--where, --shares, --timesteps: {len(left)} patients of the kind that is asked for were not found "
        f"in {most_attempts:,} attempts each. Ask for a larger group."
    )


def share_of(
    network: Network, cells: Cells, conditions: Conditions, timesteps: int | None, temperature: float = 1.0
) -> float:
    """Return the share of made patients who meet the conditions; with shares, of the rarest class.

    Args:
        network, cells, conditions, temperature: as for `draw_patients`.
        timesteps: to which patients are cut; see `with_length`.
    """
    everyone, draws = np.arange(_TRIED), SampleDraws(0, 0, _TRIED)
    static = _drawn(network, cells, draws, everyone, 0, timesteps, temperature)
    good_B = conditions.accept(static.classes, static.reals, static.lengths_B, None)
    if conditions.shared is None:
        return float(good_B.mean())
    class_B = static.classes[conditions.shared]
    return min(float((good_B & (class_B == k)).mean()) for k, share in conditions.shares.items() if share)


def _drawn(
    network: Network,
    cells: Cells,
    draws: SampleDraws,
    rows: NDArray[np.int64],
    attempt: int,
    timesteps: int | None,
    temperature: float,
) -> Static:
    """Sample an attempt for some of the patients."""
    purpose = ("static", attempt) if attempt else ("static",)
    columns, last = network.static.columns, network.layout.num_reals
    u_BS = draws.uniform_rows((len(columns),), *purpose)[rows]
    step, sums_BD = network.draw_static(torch.from_numpy(u_BS).to(network.start.device), temperature)
    values = {
        r: (cells.length if r == last else cells.variables[r]).decode(
            piece_B.cpu().numpy(), u_BS[:, columns["value", r]].astype(np.float64)
        )
        for r, piece_B in step.pieces.items()
    }
    lengths_B = np.clip(np.rint(values.pop(last)), 1, network.max_length).astype(np.int64)
    if timesteps is not None:
        lengths_B = np.full(len(rows), timesteps, np.int64)
    return Static({k: each.cpu().numpy() for k, each in step.classes.items()}, values, lengths_B, sums_BD)
