"""Ranks in a notebook: a real kernel, real engines, one group."""

import os
import re
import time

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from workshop.errors import UserError
from workshop.notebook.ranks import start_ranks

START = "from workshop.notebook import start_ranks\nranks = start_ranks({})"
REDUCE = """%%px
import torch.distributed as dist, torch
x = torch.full((2,), rank + 1.0, device=device)
print(f"rank {rank} of {world_size} has {x.tolist()}")
dist.all_reduce(x)
print(f"rank {rank} of {world_size} got {x.tolist()}")
"""
REDUCED = """[stdout:0]
rank 0 of 2 has [1.0, 1.0]
rank 0 of 2 got [3.0, 3.0]
[stdout:1]
rank 1 of 2 has [2.0, 2.0]
rank 1 of 2 got [3.0, 3.0]
"""
FAIL = "%%px\nassert rank == 0, f'planted on rank {rank}'"


def processes_of(kernel: psutil.Process) -> list[psutil.Process]:
    return [
        child
        for child in kernel.children(recursive=True)
        if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    ]


def test_cells_run_on_two_ranks_that_die_with_the_kernel() -> None:
    two, one = START.format(2), START.format(1)
    sources = [two, "ranks", REDUCE, REDUCE, FAIL, one]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in sources]
    )
    start, shown, *reduced, failing, again = notebook.cells
    client = NotebookClient(notebook, timeout=120)

    def run(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
        client.execute_cell(cell, notebook.cells.index(cell))
        return cell.outputs

    without_gpus = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with client.setup_kernel(env=without_gpus):
        assert run(start) == []
        kernel = psutil.Process(client.km.provisioner.process.pid)
        first = processes_of(kernel)
        assert len(first) >= 3
        text = run(shown)[0]["data"]["text/plain"]
        assert text == "2 ranks, CPU, one gloo group"
        # Twice: the order of the output must not be luck.
        for cell in reduced:
            (output,) = run(cell)
            assert re.sub(" +\n", "\n", output["text"]) == REDUCED
        with pytest.raises(CellExecutionError, match="planted on rank 1"):
            run(failing)
        assert run(again) == []
        _, alive = psutil.wait_procs(first, timeout=60)
        assert not alive
        second = processes_of(kernel)
        assert len(second) >= 2
        kernel.kill()
        deadline = time.monotonic() + 60
        while any(p.is_running() for p in second):
            assert time.monotonic() < deadline, [p.cmdline() for p in second]
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("n", "says"), [(0, "0 is not a number of ranks"), (2, "use torchrun")]
)
def test_ranks_that_cannot_be_are_one_sentence(n: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        start_ranks(n)
