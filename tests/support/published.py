"""The recorded numbers in our terms: weights by our names, draws by position in the step."""

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from healthgym.schema.layout import FeatureLayout
from healthgym.systems.base import Draws

Weights = Mapping[str, Tensor]


def weights(group: h5py.Group) -> dict[str, Tensor]:
    """Return the arrays of a group by name."""
    return {name: torch.from_numpy(np.array(node)) for name, node in group.items()}


def embedding_layout(critic_weights: Weights, num_features: int) -> FeatureLayout:
    """Return the layout that a recorded critic's embedding tables imply."""
    tables = _tables(critic_weights)
    num_classes = tuple(len(table) for table in tables)
    return FeatureLayout(
        num_reals=num_features - sum(num_classes),
        num_classes=num_classes,
        embedding_dims=tuple(table.shape[1] for table in tables),
    )


def load(module: nn.Module, recorded: Weights) -> nn.Module:
    """Give a module the recorded weights; nothing may be left over on either side."""
    module.load_state_dict(ours(recorded), strict=True)
    return module


def ours(recorded: Weights) -> dict[str, Tensor]:
    """Return recorded weights, or their gradients, under our names and in our shapes."""
    if "EOT.Learned_PE.weight" in recorded:
        return _transformer(recorded)
    if "out_conv.weight" in recorded:
        return _unet(recorded)
    renamed = {}
    for name, value in recorded.items():
        if name.count(".") == 1:
            layer, part = name.split(".")
            renamed[f"{_LAYERS.get(layer, layer)}.{part}"] = value
    renamed |= {f"embedding.tables.{i}": table for i, table in enumerate(_tables(recorded))}
    if "rnn_f.i2h.weight" in recorded:
        both = [{part: recorded[f"rnn_{d}.{part}"] for part in _PARTS} for d in "fr"]
        renamed["recurrent.weight_DGK"] = torch.stack(
            [torch.cat([one["i2h.weight"], one["h2h.weight"]], 1) for one in both]
        )
        renamed["recurrent.input_bias_DG"] = torch.stack([one["i2h.bias"] for one in both])
        renamed["recurrent.hidden_bias_DG"] = torch.stack([one["h2h.bias"] for one in both])
    return renamed


def relative_error(found: Tensor | np.ndarray, expected: Any) -> float:
    """Return the largest difference over the largest expected magnitude."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{found.shape} is not {expected.shape}"
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))


class RecordedDraws(Draws):
    """The random numbers that a recorded step used."""

    def __init__(self, step: h5py.Group) -> None:
        self._step = step

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.from_numpy(np.array(self._step[name]))
        assert tuple(drawn.shape) == shape, f"{name}: {tuple(drawn.shape)} was recorded, {shape} is wanted"
        return drawn

    shared_uniform = uniform

    def index(self, name: str, num_rows: int, count: int) -> Tensor:
        drawn = torch.from_numpy(np.array(self._step[name])).long()
        assert tuple(drawn.shape) == (num_rows,)
        assert int(drawn.max()) < count
        return drawn

    shared_index = index


_PARTS = ("i2h.weight", "i2h.bias", "h2h.weight", "h2h.bias")
_LAYERS = {
    "L1": "linear1",
    "S1": "skip1",
    "L2": "linear2",
    "L3": "linear3",
    "Encoder": "encoder",
    "Decoder": "decoder",
}


_UNET_LAYERS = {
    "bt1": "enter",
    "bt2": "leave",
    "down_blocks": "down_block",
    "up_blocks": "up_block",
    "downsample": "down",
    "upsample": "up",
    "mid_block1": "middle_block.0",
    "mid_block2": "middle_block.1",
    "time_emb_down": "down_film",
    "time_emb_up": "up_film",
    "time_emb_mid": "middle_film",
    "out_conv": "out_conv",
}


def _transformer(recorded: Weights) -> dict[str, Tensor]:
    """Return the weights of v2.5's generator: Q, K and V are one matrix here."""
    renamed = {"positions.weight": recorded["EOT.Learned_PE.weight"]}
    for part in ("weight", "bias"):
        for block, suffix in enumerate(("", "2", "3")):
            stacked = torch.cat([recorded[f"EOT.{letter}_W{suffix}.{part}"] for letter in "QKV"])
            renamed[f"blocks.{block}.query_key_value.{part}"] = stacked
            renamed[f"blocks.{block}.out.{part}"] = recorded[f"EOT.res{suffix}.{part}"]
            renamed[f"blocks.{block}.norm.{part}"] = recorded[f"EOT.norm{suffix}.{part}"]
        renamed[f"residual.linear.{part}"] = recorded[f"EOT.res_fin.{part}"]
        renamed[f"residual.norm.{part}"] = recorded[f"EOT.norm_fin.{part}"]
        renamed[f"out.{part}"] = recorded[f"linear3.{part}"]
    return renamed


def _unet(recorded: Weights) -> dict[str, Tensor]:
    """Return the weights of v3's denoiser, without its fixed tables."""
    renamed = {}
    for name, value in recorded.items():
        layer, _, rest = name.partition(".")
        if "table" not in rest:
            rest = rest.replace("mlp.0.", "first.").replace("mlp.2.", "second.")
            renamed[f"{_UNET_LAYERS[layer]}.{rest}"] = value
    return renamed


def _tables(recorded: Weights) -> list[Tensor]:
    names = [name for name in recorded if name.startswith("embedding_layers.")]
    return [recorded[name] for name in sorted(names, key=lambda name: int(name.split(".")[1]))]
