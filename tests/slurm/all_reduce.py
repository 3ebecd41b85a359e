"""A module for torchrun jobs: every rank adds up all ranks' numbers.

`python -m torch.distributed.run -m tests.slurm.all_reduce [SECONDS]`
sleeps afterwards, so that a test can end it.
"""

import os
import socket
import sys
import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
total = torch.tensor(float(rank + 1))
dist.all_reduce(total)
assert total.item() == world * (world + 1) / 2
cpus = os.environ.get("SLURM_CPUS_PER_TASK")  # srun says the step's own
line = (
    f"rank {rank} of {world} on {os.environ['SLURMD_NODENAME']} "
    f"({socket.gethostname()}) local {os.environ['LOCAL_RANK']} "
    f"pid {os.getpid()} {cpus} CPUs sum {total.item():g}\n"
)
# One write: print would send the line's end by itself, after which
# another rank's line may already have come.
os.write(sys.stdout.fileno(), line.encode())
if len(sys.argv) > 1:
    time.sleep(float(sys.argv[1]))
dist.barrier()
dist.destroy_process_group()
