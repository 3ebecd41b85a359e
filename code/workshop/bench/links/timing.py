"""Time a call on a device, many times: CUDA events, or the host's clock."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch


def time_calls(
    call: Callable[[], object],
    device: torch.device,
    repeats: int = 20,
    inner: int = 1,
    warmup: int = 3,
) -> list[float]:
    """Return the seconds of one `call`, `repeats` times.

    Each repeat runs `inner` calls back to back and divides, so that the
    resolution of the clock does not count.  On CUDA the calls are timed by
    events on the device's current stream: the host's own delay counts only
    where the device runs out of work.
    """
    for _ in range(warmup):
        call()
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device)
        return _on_streams([stream], call, repeats, inner)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(inner):
            call()
        seconds.append((time.perf_counter() - begin) / inner)
    return seconds


def time_together(
    calls: Sequence[Callable[[], object]],
    devices: Sequence[torch.device],
    repeats: int = 20,
    inner: int = 1,
) -> list[float]:
    """Return the seconds in which all `calls` finish, run at once.

    Each call gets a stream of its own on every one of `devices`: two
    copies in opposite directions on the default streams would wait for
    each other.  On the CPU the calls run one after the other.
    """
    if devices[0].type != "cuda":
        return time_calls(
            lambda: [call() for call in calls], devices[0], repeats, inner
        )
    lanes = [[torch.cuda.Stream(d) for d in devices] for _ in calls]

    def all_calls() -> None:
        for call, lane in zip(calls, lanes, strict=True):
            with ExitStack() as stack:
                for stream in lane:
                    stack.enter_context(torch.cuda.stream(stream))
                call()

    for device in devices:
        torch.cuda.synchronize(device)
    streams = [stream for lane in lanes for stream in lane]
    _on_streams(streams, all_calls, 2, 1)
    return _on_streams(streams, all_calls, repeats, inner)


def _on_streams(
    streams: Sequence[torch.cuda.Stream],
    call: Callable[[], object],
    repeats: int,
    inner: int,
) -> list[float]:
    """Time from the first stream's start until every stream is done."""
    first, *others = streams
    pairs = []
    for _ in range(repeats):
        begin = first.record_event(torch.cuda.Event(enable_timing=True))
        for stream in others:
            stream.wait_event(begin)
        for _ in range(inner):
            call()
        for stream in others:
            first.wait_event(stream.record_event())
        end = first.record_event(torch.cuda.Event(enable_timing=True))
        pairs.append((begin, end))
    first.synchronize()
    return [begin.elapsed_time(end) / 1e3 / inner for begin, end in pairs]
