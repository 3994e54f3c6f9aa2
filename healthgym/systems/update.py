"""One update of a network's weights: every network of every system is trained by it."""

from collections.abc import Callable

from torch import Tensor

from healthgym.distributed.share import Part, Share, mean_of
from healthgym.systems.optimiser import Optimiser


def update(
    optimiser: Optimiser, share: Share, num_rows: int, backward: Callable[[Part], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Add up the gradients of all parts of a batch and of all processes, and take a step.

    Args:
        optimiser: of the network.
        share: this process's share of the batch.
        num_rows: this process's patients.
        backward: adds a part's gradients to the network's, weighted by `Part.weight`, and returns its losses
            as detached scalars. Scale what is differentiated by `Optimiser.backward` where mixed precision
            is wanted.

    Returns:
        The mean of each loss over this process's parts; with a gradient clip also `gradient_norm`, the norm
        before it was clipped.
    """
    parts = share.parts(num_rows)
    optimiser.zero_grad()
    losses = [backward(part) for part in parts]
    share.sum_gradients(optimiser.module)
    norm = optimiser.step()
    return mean_of(losses, parts) | ({} if norm is None else {"gradient_norm": norm})
