"""Processes that fork from one which has imported torch, or more."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ForkServer
from unittest import mock

PRELOAD = ["torch.distributed", "torch._dynamo"]
"""What every rank imports; an optimizer's first step imports the second."""


def fork_server() -> BaseContext:
    """Return how to start processes from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@contextlib.contextmanager
def forking_from(server: ForkServer | None) -> Iterator[None]:
    """Fork what starts inside from a server that has imported more."""
    if server is None:
        yield
        return
    path = os.pathsep.join(sys.path)
    connect = server.connect_to_new_process
    with (
        mock.patch.dict(os.environ, PYTHONPATH=path),
        mock.patch.object(forkserver, "connect_to_new_process", connect),
    ):
        yield


def server_with(*modules: str) -> ForkServer:
    """Return a server of its own, for ranks that all import the same."""
    server = ForkServer()
    server.set_forkserver_preload([*PRELOAD, *modules])
    return server
