"""Whether the GPUs of a group can read and write each other's memory."""

import socket

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup


def available(group: ProcessGroup, device: torch.device) -> bool:
    """Tell whether the ranks of `group` can copy from each other directly.

    That takes CUDA devices of one host (by host name, so that two Slurm
    nodes count as two) with peer access. Collective: every rank of `group`
    must call it, and all get the same answer.
    """
    here = (socket.gethostname(), device.type, device.index)
    places: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(places, here, group=group)
    if len(places) < 2 or any(kind != "cuda" for _, kind, _ in places):
        return False
    if len({host for host, _, _ in places}) > 1:
        return False
    others = [index for _, _, index in places if index != device.index]
    mine = len(others) == len(places) - 1 and all(
        index < torch.cuda.device_count()
        and torch.cuda.can_device_access_peer(device.index, index)
        for index in others
    )
    answers: list = [None] * len(places)
    dist.all_gather_object(answers, mine, group=group)
    return all(answers)
