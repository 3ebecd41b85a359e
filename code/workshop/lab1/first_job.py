"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.first_job

The least that a program on many GPUs needs: join the group, take a GPU of
one's own, talk, leave.
"""

import os
import sys

import torch
import torch.distributed as dist


def main() -> None:
    """Add up all ranks' numbers, so that every rank knows the sum."""
    if "LOCAL_RANK" not in os.environ:
        sys.exit("error: no LOCAL_RANK: torchrun sets it, so start this "
                 "with torchrun")  # fmt: skip
    cuda = torch.cuda.is_available()
    # 1. Join: all ranks meet at an address that torchrun gave them.
    dist.init_process_group("nccl" if cuda else "gloo")
    # 2. Take a GPU: without this line all ranks of a node share the first.
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # 3. Talk: every rank calls, in the same order, or all of them hang.
    rank, world_size = dist.get_rank(), dist.get_world_size()
    total = torch.tensor([float(rank)], device=device)
    dist.all_reduce(total)
    print(
        f"rank {rank} of {world_size} on {device}: "
        f"all ranks add up to {total.item():g}",
        flush=True,
    )
    # 4. Leave together.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
