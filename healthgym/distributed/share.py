"""Division of a global batch over processes, and within a process into micro-batches.

The result equals that of one process with the whole batch, up to the order of floating-point sums. Means
over rows are weighted by each part's share of the rows. Losses of the whole batch (the correlation loss, the
autoencoder's divergence) are functions of moments: the values of the moments are summed over all parts, each
part computes the gradient through its own rows, and the gradients of the parts are summed.

Shapes: B batch, N rows (patients x timesteps), F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from healthgym.distributed.parallel import Process, rows_of
from healthgym.distributed.ranks import Ranks
from healthgym.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """Patients that are computed together.

    Args:
        rows: their indices among this process's patients.
        weight: their share of the global batch.
    """

    rows: slice
    weight: float

    @property
    def first_row(self) -> int:
        """Index of the first row."""
        return int(self.rows.start)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True)
class Moments:
    """Sums over the N rows of the global batch, without gradient.

    Args:
        count: N.
        mean_F: mean of each column.
        co: sums of products of centred columns, (F, F), or of squares, (F,).
    """

    count: int
    mean_F: Tensor
    co: Tensor


class Share:
    """This process's part of each batch.

    Args:
        ranks: the processes that share it.
        batch_size: patients of the global batch, set by the training loop before each step; None for any
            number, in one process.
        micro_batch_size: patients that a process computes at once; None for all of its own.

    Raises:
        ConfigError: a batch has fewer patients than there are processes; raised in the first process.
    """

    def __init__(
        self, ranks: Ranks | None = None, batch_size: int | None = None, micro_batch_size: int | None = None
    ) -> None:
        self.ranks = ranks or Ranks()
        count = self.ranks.process.num_processes
        if batch_size is not None and batch_size < count:
            raise self.ranks.agreed(
                ConfigError(
                    f"A batch has {batch_size} patients and {count} processes share each batch: each needs "
                    f"at least one patient. Use at most {batch_size} processes, or a larger "
                    "curriculum.batch_size, if there are so many patients."
                )
            )
        self.batch_size, self._micro_batch_size = batch_size, micro_batch_size

    @property
    def first_row(self) -> int:
        """Index of this process's first patient in the global batch."""
        return 0 if self.ranks.alone else int(self.own(self.batch_size or 0).start)

    def own(self, batch_size: int) -> slice:
        """Return this process's patients of a global batch."""
        return rows_of(self.ranks.process, batch_size)

    def num_rows(self, own_rows: int) -> int:
        """Return the number of patients of the global batch."""
        return own_rows if self.ranks.alone else self.batch_size or 0

    def parts(self, num_rows: int) -> list[Part]:
        """Divide this process's patients into micro-batches."""
        size, total = self._micro_batch_size or num_rows, self.num_rows(num_rows)
        starts = range(0, num_rows, size)
        return [
            Part(slice(start, min(start + size, num_rows)), min(size, num_rows - start) / total)
            for start in starts
        ]

    def weights(self) -> Tensor:
        """Return each process's share of the global batch, float64."""
        size, count = self.batch_size or 0, self.ranks.process.num_processes
        rows = [rows_of(Process(rank, count), size) for rank in range(count)]
        return torch.tensor([(own.stop - own.start) / size for own in rows], dtype=torch.float64)

    def whole(self, parts: Sequence[Part]) -> bool:
        """Whether the parts are the whole global batch in one part."""
        return self.ranks.alone and len(parts) == 1

    # --- adding up -------------------------------------------------------------------------------

    def sum_gradients(self, module: nn.Module) -> None:
        """Sum the gradients of all processes, in one message per network."""
        if self.ranks.alone:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        total = self.ranks.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        pieces = total.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def all_rows(self, own: Tensor) -> Tensor:
        """Return the global batch's rows in order, given this process's rows."""
        if self.ranks.alone:
            return own
        everything = own.new_zeros(self.batch_size or 0, *own.shape[1:])
        everything[self.first_row : self.first_row + len(own)] = own
        return self.ranks.sum(everything)

    def co_moments(self, rows_NF: Tensor, uneven: bool = False) -> Moments:
        """Return means and co-moments (F, F) of the global batch, given this process's rows.

        Args:
            rows_NF: rows of its patients.
            uneven: whether patients have different numbers of rows.
        """
        mean_F, count = self._mean(rows_NF, uneven)
        centred_NF = rows_NF.detach() - mean_F
        return Moments(count, mean_F, self.ranks.sum(centred_NF.T @ centred_NF))

    def square_moments(self, rows_NF: Tensor, uneven: bool = False) -> Moments:
        """Return means and centred squares (F,) of the global batch, as `co_moments` does."""
        mean_F, count = self._mean(rows_NF, uneven)
        return Moments(count, mean_F, self.ranks.sum((rows_NF.detach() - mean_F).square().sum(0)))

    def _mean(self, rows_NF: Tensor, uneven: bool) -> tuple[Tensor, int]:
        count = len(rows_NF)
        if uneven:
            count = int(self.ranks.sum(rows_NF.new_tensor(float(count), dtype=torch.float64)))
        elif not self.ranks.alone:
            own = self.own(self.batch_size or 0)
            count = count // (own.stop - own.start) * (self.batch_size or 0)
        return self.ranks.sum(rows_NF.detach().sum(0)) / count, count


def correlation_of(rows_NF: Tensor, moments: Moments) -> Tensor:
    """Return the global batch's Pearson correlations (F, F), as `losses.correlation_matrix` would.

    Args:
        rows_NF: some of its rows, through which the gradient flows.
        moments: co-moments of all of them.
    """
    # The mean needs no gradient: the co-moments do not change with it where it is the mean.
    centred_NF = rows_NF - moments.mean_F
    covariance_FF = _with_value(centred_NF.T @ centred_NF, moments.co) / (moments.count - 1)
    deviation_F = covariance_FF.diagonal().clamp_min(1e-30).sqrt()
    deviation_F = torch.where(deviation_F < 1e-8, 1.0, deviation_F)
    correlation_FF = (covariance_FF / torch.outer(deviation_F, deviation_F)).clamp(-1, 1)
    eye_FF = torch.eye(len(deviation_F), dtype=rows_NF.dtype, device=rows_NF.device)
    return correlation_FF * (1 - eye_FF) + eye_FF


def var_mean_of(rows_NF: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the global batch's unbiased variance and mean (F,); the gradient flows through `rows_NF`."""
    squares_F = (rows_NF - moments.mean_F).square().sum(0)
    mean_F = _with_value(rows_NF.sum(0) / moments.count, moments.mean_F)
    return _with_value(squares_F, moments.co) / (moments.count - 1), mean_F


def mean_of(losses: Sequence[Mapping[str, Tensor]], parts: Sequence[Part]) -> dict[str, Tensor]:
    """Return the mean of each loss over a process's parts."""
    if len(parts) == 1:
        return dict(losses[0])
    total = sum(part.weight for part in parts)
    shares = [part.weight / total for part in parts]  # plain numbers: a CUDA graph must not read host memory
    return {
        name: torch.stack([share * loss[name] for share, loss in zip(shares, losses, strict=True)]).sum()
        for name in losses[0]
    }


def _with_value(computed: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `computed`."""
    return value + (computed - computed.detach())


WHOLE = Share()
"""One process that computes each batch at once."""
