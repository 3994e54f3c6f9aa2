"""A small recurrent classifier of sequences; the only place in the report that needs torch.

B batch, T timesteps, F features, H hidden.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_HIDDEN = 32
_EPOCHS = 8
_BATCH = 64
_TRAINED = 0.7


class _Classifier(nn.Module):
    """A GRU whose mean and last state over a patient's timesteps give one logit."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.gru = nn.GRU(num_features, _HIDDEN, batch_first=True)
        self.head = nn.Linear(2 * _HIDDEN, 1)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        states_BTH, _ = self.gru(x_BTF)
        present_BT = torch.arange(x_BTF.shape[1])[None, :] < lengths_B[:, None]
        mean_BH = (states_BTH * present_BT[:, :, None]).sum(1) / lengths_B[:, None]
        last_BH = states_BTH[torch.arange(len(x_BTF)), lengths_B - 1]
        logits: Tensor = self.head(torch.cat([mean_BH, last_BH], dim=1))
        return logits[:, 0]


def gru_scores(
    sequences: Sequence[NDArray[np.float32]], lengths: Sequence[NDArray[np.int64]], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train on 70% of two sets of patients and return the scores of the other 30% of each.

    Args:
        sequences: two arrays of shape (N, T, F); the first set should score high.
        lengths: timesteps per patient.
        seed: of weights and batch order; the caller's random state is left alone.
    """
    cuts = [int(_TRAINED * len(part)) for part in sequences]
    x = torch.from_numpy(np.concatenate([part[:cut] for part, cut in zip(sequences, cuts, strict=True)]))
    n = torch.from_numpy(np.concatenate([part[:cut] for part, cut in zip(lengths, cuts, strict=True)]))
    y = torch.cat([torch.ones(cuts[0]), torch.zeros(cuts[1])])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _Classifier(x.shape[2])
        _train(model, x, n, y)
    model.eval()
    with torch.no_grad():
        scores = [
            model(torch.from_numpy(part[cut:]), torch.from_numpy(size[cut:])).double().numpy()
            for part, size, cut in zip(sequences, lengths, cuts, strict=True)
        ]
    return scores[0], scores[1]


def _train(model: _Classifier, x_NTF: Tensor, lengths_N: Tensor, labels_N: Tensor) -> None:
    """Fit by Adam on binary cross-entropy."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss = nn.BCEWithLogitsLoss()
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(x_NTF)).split(_BATCH):
            optimiser.zero_grad()
            loss(model(x_NTF[batch], lengths_N[batch]), labels_N[batch]).backward()
            optimiser.step()
