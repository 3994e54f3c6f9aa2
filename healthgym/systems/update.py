"""One update of a network's weights, used for every network of every system."""

from collections.abc import Callable

from torch import Tensor

from healthgym.distributed.share import Part, Share, mean_of
from healthgym.systems.optimiser import Optimiser


def update(
    optimiser: Optimiser, share: Share, num_rows: int, backward: Callable[[Part], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Sum the gradients of all parts of a batch and of all processes, and take an optimiser step.

    Args:
        optimiser: of the network.
        share: this process's share of the batch.
        num_rows: this process's patients.
        backward: adds a part's gradients to the network's, weighted by `Part.weight`, and returns its losses
            as detached scalars. For mixed precision it calls `Optimiser.backward`, which scales the loss.

    Returns:
        The mean of each loss over this process's parts; with gradient clipping also `gradient_norm`, the norm
        before clipping.
    """
    parts = share.parts(num_rows)
    optimiser.zero_grad()
    losses = [backward(part) for part in parts]
    share.sum_gradients(optimiser.module)
    norm = optimiser.step()
    return mean_of(losses, parts) | ({} if norm is None else {"gradient_norm": norm})
