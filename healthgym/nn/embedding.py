"""The critic's soft embedding: reals unchanged, each categorical block times its table."""

import torch
from torch import Tensor, nn

from healthgym.schema.layout import FeatureLayout


class SoftEmbedding(nn.Module):
    """Map features (..., F) to (..., E), linearly, so that soft and hard classes embed alike.

    All tables and the passing reals form one block-diagonal matrix, so that it is one product.
    """

    def __init__(self, layout: FeatureLayout) -> None:
        super().__init__()
        self.layout = layout
        self.tables = nn.ParameterList(
            torch.randn(width, dim)
            for width, dim in zip(layout.num_classes, layout.embedding_dims, strict=True)
        )
        self.register_buffer("_reals", torch.eye(layout.num_reals), persistent=False)

    def matrix_FE(self) -> Tensor:
        """Return the block-diagonal matrix, differentiable in the tables."""
        reals: Tensor = self.get_buffer("_reals")
        matrix: Tensor = torch.block_diag(reals, *self.tables)
        return matrix

    def forward(self, x_F: Tensor) -> Tensor:
        return x_F @ self.matrix_FE()
