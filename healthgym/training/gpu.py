"""Errors of a run's GPU as messages."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from healthgym.config import RunConfig
from healthgym.distributed.ranks import Ranks
from healthgym.errors import ConfigError


def uuid_of(device: torch.device) -> str:
    """Return the unique name of a GPU."""
    return str(torch.cuda.get_device_properties(device).uuid)


def refuse_shared_gpu(
    device: torch.device, ranks: Ranks, name_of: Callable[[torch.device], str] = uuid_of
) -> None:
    """Refuse two processes of one job on one GPU, which NCCL does not support.

    Args:
        device: of this process.
        ranks: the processes.
        name_of: returns the unique name of a GPU.

    Raises:
        ConfigError: processes share a GPU; raised in the first process.
    """
    if device.type != "cuda" or ranks.alone:
        return
    digest = hashlib.sha256(name_of(device).encode()).digest()[:16]
    gpus = ranks.gather(torch.from_numpy(np.frombuffer(digest, np.int64).copy()))
    names = [tuple(gpu.tolist()) for gpu in gpus]
    shared = [rank for rank, name in enumerate(names) if names.count(name) > 1]
    if shared:
        raise ranks.agreed(
            ConfigError(
                f"Processes {', '.join(map(str, shared))} share GPUs: {len(names)} processes were started "
                f"and have {len(set(names))} different GPU(s) between them. Start as many processes as there "
                f"are GPUs; one process keeps a GPU busy by itself."
            )
        )


def out_of_memory(error: Exception, config: RunConfig, num_processes: int) -> ConfigError:
    """Return the error for a step that exceeds the GPU's memory."""
    batch, micro = config.curriculum.batch_size, config.training.micro_batch_size
    own = -(-batch // num_processes)
    at_once = min(micro or own, own)
    smaller = max(at_once // 2, 1)
    reason = str(error).split(". ")[0].rstrip(".")
    way_out = (
        f"Start the same run again with training.micro_batch_size={smaller}, which computes the same batch "
        f"in smaller parts: it resumes from the last checkpoint."
        if at_once > 1
        else "Not even one patient at a time fits: use a GPU with more memory, or a smaller network."
    )
    return ConfigError(
        f"The GPU's memory is not enough for a step ({reason}): curriculum.batch_size is {batch}, "
        f"training.micro_batch_size is {'not set' if micro is None else micro}, so that {at_once} patients "
        f"are computed at once. {way_out}"
    )
