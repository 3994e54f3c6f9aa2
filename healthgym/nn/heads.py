"""From a generator's last layer to features, and from codes to features.

Shapes: F features, R reals, K categorical variables; the layout says which column is whose.
"""

import torch
from torch import Tensor

from healthgym.schema.layout import FeatureLayout


def apply_heads(logits_F: Tensor, layout: FeatureLayout) -> Tensor:
    """Return sigmoid of the real columns and softmax within each categorical block, (..., F)."""
    blocks = [logits_F[..., : layout.num_reals].sigmoid()]
    blocks += [logits_F[..., span].softmax(-1) for span in layout.spans]
    return torch.cat(blocks, -1)


def one_hot(reals_R: Tensor, codes_K: Tensor, layout: FeatureLayout) -> Tensor:
    """Return features (..., F) from transformed reals (..., R) and class indices (..., K)."""
    # torch's own one_hot reads the largest class back from the device, and cannot be part of a CUDA graph.
    blocks = [reals_R]
    for index, width in enumerate(layout.num_classes):
        classes_C = torch.arange(width, device=codes_K.device).to(codes_K.dtype)
        blocks.append((codes_K[..., index, None] == classes_C).to(reals_R.dtype))
    return torch.cat(blocks, -1)


def decode_classes(x_F: Tensor, layout: FeatureLayout) -> Tensor:
    """Return the class of the largest score in each block, uint8 (..., K)."""
    if not layout.spans:
        return torch.empty(*x_F.shape[:-1], 0, dtype=torch.uint8, device=x_F.device)
    return torch.stack([x_F[..., span].argmax(-1) for span in layout.spans], -1).to(torch.uint8)
