"""What the machine says of its GPUs, and NCCL between two of them."""

import json

import torch
import torch.distributed as dist

from workshop import doctor as hardware
from workshop.doctor import checks


def test_the_description_agrees_with_torch():
    machine = json.loads(json.dumps(hardware.describe()))
    count = torch.cuda.device_count()
    assert len(machine["gpus"]) == count
    for index, gpu in enumerate(machine["gpus"]):
        properties = torch.cuda.get_device_properties(index)
        assert gpu["model"] == properties.name
        assert gpu["multiprocessors"] == properties.multi_processor_count
        assert gpu["memory_gib"] > 1
    assert machine["host_gpus"] >= count and machine["driver"]
    assert machine["software"]["cuda"] and machine["software"]["nccl"]
    peers = machine["peer_access"]
    assert [len(row) for row in peers] == [count] * count
    matrix = machine["links"]["matrix"]
    assert all(len(row) == len(matrix) >= count for row in matrix)


def test_the_doctor_finds_gpus_and_nccl_working(two_gpus):
    machine = checks.machine()
    assert checks.gpus(machine).ok is True
    finding = checks.nccl(machine)
    assert finding.ok is True, finding.observed


def sum_of_random(rank: int, world: int, dtype: torch.dtype) -> float:
    """Return the relative error of NCCL's sum against float64's."""
    generator = torch.Generator().manual_seed(rank)
    mine = torch.randn(2**20 + 3, generator=generator).to(dtype)
    exact = mine.double()
    dist.all_reduce(exact)
    summed = mine.cuda()
    dist.all_reduce(summed)
    error = (summed.double().cpu() - exact).norm() / exact.norm()
    return float(error)


def test_nccl_sums_random_numbers(nccl2):
    assert max(nccl2.run(sum_of_random, torch.float32)) < 1e-6
    bf16 = max(nccl2.run(sum_of_random, torch.bfloat16))
    # a sum of two is rounded once, by at most half of 2^-8
    assert 0 < bf16 < 2**-8
