"""The WGAN's critic and its gradient penalty.

Shapes: B batch, T timesteps, N = T B columns, F features, E embedded, H hidden.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu_

from healthgym.nn.embedding import SoftEmbedding
from healthgym.nn.recurrent import BiLSTM
from healthgym.schema.layout import FeatureLayout
from healthgym.systems.adversarial.generators import LEAK


class Critic(nn.Module):
    """Score whole patients: high for real ones.

    Source: Kuo et al., *Scientific Data* 2022.
    """

    def __init__(self, layout: FeatureLayout, hidden_dim: int) -> None:
        super().__init__()
        self.embedding = SoftEmbedding(layout)
        self.linear1 = nn.Linear(layout.num_embedded, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, hidden_dim)
        self.recurrent = BiLSTM(hidden_dim, hidden_dim)
        self.linear3 = nn.Linear(2 * hidden_dim, 1)

    def forward(self, x_BTF: Tensor, *, penalised: bool = False) -> Tensor:
        """Return scores (B, 1).

        Args:
            x_BTF: features; soft classes are fine.
            penalised: only the gradient of the scores with respect to x_BTF will be used, and that
                will itself be differentiated.
        """
        B, T, F = x_BTF.shape
        # Features before patients, as the recurrent passes want them; N = T B columns.
        x_FN = x_BTF.permute(2, 1, 0).reshape(F, T * B)
        weight_HF = self.linear1.weight @ self.embedding.matrix_FE().t()
        h_HN = leaky_relu_(torch.addmm(self.linear1.bias.unsqueeze(1), weight_HF, x_FN), LEAK)
        h_HN = leaky_relu_(torch.addmm(self.linear2.bias.unsqueeze(1), self.linear2.weight, h_HN), LEAK)
        h_TBH = h_HN.view(-1, T, B).permute(1, 2, 0)
        scores: Tensor = self.linear3(self.recurrent(h_TBH, last_only=True, penalised=penalised))
        return scores


def gradient_penalty(
    critic: nn.Module,
    real_BTF: Tensor,
    fake_BTF: Tensor,
    alpha_B11: Tensor,
    mask_BT: Tensor | None = None,
) -> Tensor:
    """Return mean((||dD/dx||_2 - 1)^2) at x = alpha real + (1 - alpha) fake.

    The norm runs over all timesteps and features of a patient; padding, which no patient can change, is left
    out by a mask.

    Source: Gulrajani et al., *Improved training of Wasserstein GANs*, 2017, equation 3.
    """
    x = torch.lerp(fake_BTF, real_BTF, alpha_B11).requires_grad_()
    scores = critic(x, penalised=True)
    (gradient_BTF,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    if mask_BT is not None:
        gradient_BTF = gradient_BTF * mask_BT.unsqueeze(2)
    norm_B = torch.sqrt(gradient_BTF.square().sum((1, 2)) + 1e-12)
    return (norm_B - 1).square().mean()
