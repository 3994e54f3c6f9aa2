"""Recorded numbers, and how ours are compared with them."""

from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from healthgym.layout import FeatureLayout


def golden_layout(goldens: Path) -> FeatureLayout:
    """Return the layout on which all goldens were recorded: blocks one column wide are reals."""
    with h5py.File(goldens / "transform.h5") as file:
        widths = [int(w) for w in file["span_end"][()] - file["span_start"][()]]
        embedding = [int(width) for width in file["embedding_size"][()]]
    reals = sum(width == 1 for width in widths)
    assert all(width == 1 for width in widths[:reals])
    return FeatureLayout(reals, tuple(widths[reals:]), tuple(embedding[reals:]))


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    """Return |ours - recorded| / |recorded|, in Euclidean norms."""
    assert ours.shape == recorded.shape, f"{tuple(ours.shape)} is not {tuple(recorded.shape)}"
    difference = ours.detach().double() - recorded.double()
    return float(difference.norm() / recorded.double().norm().clamp(min=1e-12))


def tensors(group: h5py.Group, prefix: str = "") -> dict[str, Tensor]:
    """Return all arrays directly in a group whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): torch.tensor(array[()])
        for name, array in group.items()
        if name.startswith(prefix)
    }


def transformer_weights(group: h5py.Group) -> dict[str, Tensor]:
    """Return a recorded v2.5 generator's weights under our names: Q, K, V are one matrix here."""
    recorded: dict[str, Any] = tensors(group)
    ours = {"positions.weight": recorded["EOT.Learned_PE.weight"]}
    for part in ("weight", "bias"):
        for block, suffix in enumerate(("", "2", "3")):
            stacked = torch.cat([recorded[f"EOT.{letter}_W{suffix}.{part}"] for letter in "QKV"])
            ours[f"blocks.{block}.query_key_value.{part}"] = stacked
            ours[f"blocks.{block}.out.{part}"] = recorded[f"EOT.res{suffix}.{part}"]
            ours[f"blocks.{block}.norm.{part}"] = recorded[f"EOT.norm{suffix}.{part}"]
        ours[f"residual.linear.{part}"] = recorded[f"EOT.res_fin.{part}"]
        ours[f"residual.norm.{part}"] = recorded[f"EOT.norm_fin.{part}"]
        ours[f"out.{part}"] = recorded[f"linear3.{part}"]
    return ours


def unet_weights(group: h5py.Group) -> dict[str, Tensor]:
    """Return a recorded U-Net's weights under our names; the fixed tables are left out."""
    renamed = {
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
    ours = {}
    for name, value in tensors(group).items():
        head, _, rest = name.partition(".")
        if "table" not in rest:
            rest = rest.replace("mlp.0.", "first.").replace("mlp.2.", "second.")
            ours[f"{renamed[head]}.{rest}"] = value
    return ours
