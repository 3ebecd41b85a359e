"""Programs that tests start as a reader would: on CPUs, a thread a rank.

`launch` starts the program itself. `launch_ranks` starts the ranks that
torchrun would, each a process of its own that ran from its first line to its
exit code, as forks of a server that has imported torch already.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from fork_servers import fork_server
from pool import LIMIT
from torch.distributed import TCPStore


def program(name: str) -> Path:
    """Return a program of this environment, such as torchrun."""
    return Path(sys.executable).with_name(name)


def environment(folder: Path | None = None, **variables: str) -> dict:
    """Return the variables of a launch; metrics and artifacts to `folder`."""
    inherited = {k: v for k, v in os.environ.items() if k != "RANK"}
    ours = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if folder:
        ours["WORKSHOP_METRICS"] = str(folder / "metrics.jsonl")
        ours["WORKSHOP_ARTIFACTS"] = str(folder)
    return {**inherited, **ours, **variables}


def launch(
    *command: object, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess:
    """Run a program of this environment; return its end and its text."""
    name, *arguments = command
    return subprocess.run(
        [program(str(name)), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment(folder, **variables),
    )


def _become(module: str, argv: list[str], variables: dict, log: str) -> None:
    """Run a module as `python -m` would, in this fork."""
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "err")):
        with open(f"{log}.{name}", "w") as text:
            os.dup2(text.fileno(), number)
    torch.set_num_threads(1)
    sys.argv = [module, *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def launch_ranks(
    module: str,
    *argv: object,
    ranks: int | None = None,
    folder: Path | None = None,
    **variables: str,
) -> subprocess.CompletedProcess:
    """Run the processes that torchrun would start, or one plain process.

    Args:
        module: what stands after -m.
        ranks: how many join one group; None for a process without torchrun.

    Returns:
        The largest exit code of a rank, and the text of all, rank by rank.

    Raises:
        AssertionError: ranks have not ended in `LIMIT` seconds; names them.
    """
    every = environment(folder, **variables)
    words = list(map(str, argv))
    if ranks:
        # As torchrun does: its agent holds the store, and the ranks join it.
        store = TCPStore(
            "127.0.0.1",
            0,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=LIMIT),
        )
        every |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
        }
    with tempfile.TemporaryDirectory(prefix="workshop-ranks-") as place:
        started = []
        for rank in range(ranks or 1):
            own = (
                {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks else {}
            )
            process = fork_server().Process(
                target=_become,
                args=(module, words, every | own, f"{place}/{rank}"),
                name=f"rank {rank} of {module}",
            )
            process.start()
            started.append(process)
        late = _late(started)
        out, err = (
            "".join(
                p.read_text() for p in sorted(Path(place).glob(f"*.{of}"))
            )
            for of in ("out", "err")
        )
    assert not late, f"no end of {late} after {LIMIT} s:\n{out}\n{err}"
    codes = [process.exitcode for process in started]
    code = next((code for code in codes if code < 0), max(codes))
    return subprocess.CompletedProcess([module, *words], code, out, err)


def _late(started: list[BaseProcess]) -> list[str]:
    """Wait for the ranks; end and name those that do not end."""
    deadline = time.monotonic() + LIMIT
    try:
        for process in started:
            process.join(max(0, deadline - time.monotonic()))
        return [process.name for process in started if process.is_alive()]
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
                process.join()
