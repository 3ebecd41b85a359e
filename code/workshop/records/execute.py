"""Run a command, show and keep its lines, and leave nothing behind."""

import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

GRACE = 2.0


class DeadlineError(Exception):
    """The command was still running at its deadline."""


def stream(
    argv: list[str],
    env: dict[str, str],
    cwd: Path,
    deadline: float,
    emit: Callable[[str], None],
) -> int:
    """Run a command, pass each line of its output to `emit`, return its code.

    `deadline` is a value of `time.monotonic`. Whatever ends the wait (the
    deadline, a signal's exception, Ctrl-C), the command and all its
    descendants are gone afterwards.
    """
    process = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(
        target=_read, args=(process, lines), daemon=True
    )
    reader.start()
    try:
        _show(lines, deadline, emit)
        left = max(0.1, deadline - time.monotonic())
        return process.wait(timeout=left)
    except subprocess.TimeoutExpired:
        raise DeadlineError from None
    finally:
        _end(process)


def _read(process: subprocess.Popen, lines: queue.Queue) -> None:
    for line in process.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _show(
    lines: queue.Queue, deadline: float, emit: Callable[[str], None]
) -> None:
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError
        try:
            line = lines.get(timeout=min(left, 0.5))
        except queue.Empty:
            continue
        if line is None:
            return
        emit(line)


def _end(process: subprocess.Popen) -> None:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
