"""The autoencoder of v2 and v2.5, whose latents fill the latent memory.

Shapes: B batch, T timesteps, E embedded features, H hidden, Z latent.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss


class Autoencoder(nn.Module):
    """Embed timesteps in a latent space regularised towards a standard normal.

    Source: Kuo et al., *J. Biomedical Informatics* 2023.
    """

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_dim, hidden_dim)
        self.skip1 = nn.Linear(input_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, hidden_dim)
        self.linear3 = nn.Linear(hidden_dim, hidden_dim)
        self.encoder = nn.Linear(hidden_dim, latent_dim)
        self.decoder = nn.Linear(latent_dim, input_dim)

    def forward(self, x_BTE: Tensor) -> tuple[Tensor, Tensor]:
        """Return (latents (B, T, Z), reconstruction (B, T, E))."""
        h = torch.relu(self.linear1(x_BTE) + self.skip1(x_BTE))
        h = torch.relu(self.linear2(h) + h)
        h = torch.relu(self.linear3(h) + h)
        latent_BTZ = self.encoder(h)
        return latent_BTZ, self.decoder(latent_BTZ)


def autoencoder_loss(
    x_BTE: Tensor, latent_BTZ: Tensor, reconstruction_BTE: Tensor, mask_BT: Tensor | None = None
) -> Tensor:
    """Return the reconstruction's MSE plus sum over Z of -0.5 (1 + log var - mean^2 - var).

    Mean and variance are taken over all rows of the batch, but for those that a mask leaves out.
    """
    if mask_BT is None:
        var_Z, mean_Z = torch.var_mean(latent_BTZ, (0, 1))
    else:
        var_Z, mean_Z = torch.var_mean(latent_BTZ[mask_BT], 0)
    return patient_mse(reconstruction_BTE, x_BTE, mask_BT) + latent_divergence(var_Z, mean_Z)


def patient_mse(first_BTE: Tensor, second_BTE: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return the mean squared difference; under a mask, of each patient's own timesteps, then of patients."""
    if mask_BT is None:
        return mse_loss(first_BTE, second_BTE)
    error_BT = (first_BTE - second_BTE).square().mean(2) * mask_BT
    return (error_BT.sum(1) / mask_BT.sum(1)).mean()


def latent_divergence(var_Z: Tensor, mean_Z: Tensor) -> Tensor:
    """Return the divergence of latents with these moments from a standard normal."""
    return -0.5 * (1 + var_Z.log() - mean_Z.square() - var_Z).sum()
