"""Data parallelism equals the dense model on two GPUs, over NCCL and copies.

The invariants are those of the CPU tests, in float64 on the devices.
"""

import pytest
from parity import VALUES, verify
from pool import Pool
from training_cases import Case, torch_ddp

from workshop.parallel.data.naive import NaiveDataParallel
from workshop.parallel.data.overlapped import OverlappedDataParallel

SMALL, WHOLE = 0.001, 64.0
NCCL = {"transport": "collective"}
COPIES = {"transport": "copy_engine"}
# The copy engine rounds buckets up to whole shards, so its bytes are not
# exactly the gradient's.
STRATEGIES = {
    "naive": (NaiveDataParallel, {}, (*VALUES, "traffic")),
    "nccl-small": (
        OverlappedDataParallel,
        {"bucket_mib": SMALL, **NCCL},
        (*VALUES, "traffic", "overlap"),
    ),
    "nccl-whole": (
        OverlappedDataParallel,
        {"bucket_mib": WHOLE, **NCCL},
        (*VALUES, "traffic"),
    ),
    "copies-small": (
        OverlappedDataParallel,
        {"bucket_mib": SMALL, **COPIES},
        (*VALUES, "overlap"),
    ),
    "copies-whole": (
        OverlappedDataParallel,
        {"bucket_mib": WHOLE, **COPIES},
        VALUES,
    ),
    "torch-ddp": (torch_ddp, {"mib": SMALL}, VALUES),
}


@pytest.mark.parametrize("awkward", [False, True], ids=["gpt", "awkward"])
@pytest.mark.parametrize(
    ("optimizer", "num_microbatches"), [("sgd", 1), ("sgd", 3), ("adamw", 3)]
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_parity_with_the_dense_model_on_gpus(
    nccl2: Pool,
    name: str,
    optimizer: str,
    num_microbatches: int,
    awkward: bool,
) -> None:
    strategy, options, checks = STRATEGIES[name]
    case = Case(
        strategy,
        options,
        awkward,
        optimizer,
        num_microbatches,
        device="cuda",
        checks=checks,
    )
    verify(nccl2, case)
