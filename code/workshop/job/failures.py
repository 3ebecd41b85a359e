"""How a job ends that cannot go on: soon, and saying why once.

One rank fails first. The others then wait for a message that never comes,
or see their connections close, and whatever they report is noise. So the
first rank leaves its name in the store that all ranks share, and it alone
explains.
"""

import os
import re
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

import psutil
import torch
import torch.distributed as dist

from workshop.errors import UserError, full_disk
from workshop.job.launch import (
    AgreedError,
    Job,
    launched,
    leave_sentence,
    leave_words,
)

GIB = 2**30
# Weights, gradients and AdamW's states of a parameter: as many whether all
# of them are float32 or bfloat16 with float32 masters.
STATE_BYTES = 16
PATIENCE = timedelta(seconds=2)  # torchrun looks after its ranks every 0.1
# Gloo and the allocators have no exception of their own: they raise
# RuntimeError, and begin with the place in their source that raised it.
GLOO = re.compile(r"\[[^]]*\bgloo/\S+\.(cc|h):\d+\] ")
ALLOCATOR = re.compile(
    r"\[enforce fail at alloc_cpu\.cpp:\d+\]|CUDA( error:)? out of memory"
)
KEY = "workshop/failed-first"


@contextmanager
def joined() -> Iterator[Job]:
    """Join the process group as `launched` does, and say who failed first.

    A `UserError` that not all ranks agree on ends the job with the sentence
    of the first rank it happened on and exit code 2, any other exception
    with that rank's traceback and exit code 1.
    """
    with launched() as job:
        try:
            yield job
        except AgreedError:
            raise
        except UserError as error:
            refuse(str(error))
        except Exception as error:  # noqa: BLE001 whatever it is ends the job
            if isinstance(error, OSError) and (full := full_disk(error)):
                refuse(full)
            end(error)


def failed_first() -> int:
    """Return the rank that failed first: this one, unless one was before.

    Where the store has gone with its rank, nobody else can be asked.
    """
    rank = str(dist.get_rank())
    try:
        store = dist.distributed_c10d._get_default_store()
        return int(store.compare_set(KEY, "", rank))
    except (RuntimeError, ValueError):
        return int(rank)


def end(error: Exception) -> NoReturn:
    """End this rank after an exception that no person can mend by input.

    The first rank to fail shows its traceback and leaves it to torchrun's
    summary. torchrun then ends the others; those that fail before it does
    say in one line on whose account. Exit code 1, without waiting for
    kernels or messages that will never complete.
    """
    if is_lost_connection(error):
        wait_for_name()
    rank, first = dist.get_rank(), failed_first()
    if rank == first:
        leave_words("".join(traceback.format_exception(error)))
        print(f"rank {rank} failed:", file=sys.stderr)
        traceback.print_exception(error)
    else:
        print(f"rank {rank} ends, rank {first} failed", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def refuse(message: str) -> NoReturn:
    """End this rank with one sentence and code 2, as `end` does with 1."""
    if failed_first() == dist.get_rank():
        print(f"error: {message}", file=sys.stderr)
        leave_sentence(message)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def is_lost_connection(error: Exception) -> bool:
    """Tell whether the error is what a rank sees of another's death.

    One of c10d's own errors, or gloo's.  An error of the program that speaks
    of connections, such as Python's `ConnectionError`, is its own.
    """
    if isinstance(error, dist.DistError):
        return True
    if type(error) is RuntimeError and GLOO.match(str(error)):
        return True
    # A `PipelineStuck` says which message was waited for, and has a cause.
    cause = error.__cause__
    return isinstance(cause, Exception) and is_lost_connection(cause)


def wait_for_name() -> None:
    """Wait until the rank that failed first has left its name.

    It comes at once from one that had an exception.  One that was killed
    leaves none: torchrun is about to end this rank too, and its summary then
    names the right one.
    """
    # The store has gone with its rank, or nobody came in time.
    with suppress(RuntimeError, ValueError):
        store = dist.distributed_c10d._get_default_store()
        store.wait([KEY], PATIENCE)


@contextmanager
def memory_explained(
    parameters: int, tensor: int, pipeline: int, device: torch.device
) -> Iterator[None]:
    """Turn an allocation that fails inside into one sentence.

    Args:
        parameters: those of the dense model.
        tensor: tensor parallel size.
        pipeline: pipeline parallel size.
        device: where this rank computes.

    Raises:
        UserError: what was asked for, what the device has, what the states
            alone take, and what to change.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        share = parameters / (tensor * pipeline)
        where = f"tp={tensor} × pp={pipeline}"
        raise UserError(
            _sentence(str(error), share * STATE_BYTES, where, device)
        ) from None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    says = str(error)
    if isinstance(error, torch.AcceleratorError | dist.DistError):
        return "out of memory" in says  # CUDA's and NCCL's name of it
    return type(error) is RuntimeError and bool(ALLOCATOR.match(says))


def _sentence(
    says: str, states: float, where: str, device: torch.device
) -> str:
    asked = re.search(
        r"tried to allocate (\d[\d.]*) (\w+)", says, re.IGNORECASE
    )
    what = " ".join(asked.groups()) if asked else "memory"
    if asked and asked[2] == "bytes":
        what = f"{float(asked[1]) / GIB:.2f} GiB"
    if device.type == "cuda":
        name = "GPU"
        has = torch.cuda.get_device_properties(device).total_memory
    else:
        name, has = "machine", psutil.virtual_memory().total
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        if 0 <= limit < has:
            name, has = "process", limit
    smaller = "lower --micro-batch, or " if states < has else ""
    return (
        f"out of memory: the training asked for {what} more, the {name} has "
        f"{has / GIB:.1f} GiB, and weights, gradients and optimizer states "
        f"alone take about {states / GIB:.1f} GiB a rank with {where}: "
        f"{smaller}raise --tensor-parallel-size or --pipeline-parallel-size"
    )
