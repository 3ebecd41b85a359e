"""Checks for the exercises on failing jobs: each says what it found.

An answer of None is one that was not given yet. A check gives a hint and
never the value that it waits for.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workshop.estimate.checkpointing import mtbf_of, young
from workshop.exercises.verdict import MISSING, RIGHT

LOGS = """\
node1, torchrun:
  [rank0]: Watchdog caught collective operation timeout:
    WorkNCCL(SeqNum=812, OpType=ALLREDUCE, Timeout(ms)=600000)
  [rank1]: Watchdog caught collective operation timeout:
    WorkNCCL(SeqNum=812, OpType=ALLREDUCE, Timeout(ms)=600000)
  Root Cause (first observed failure):
    time 10:14:51, rank 0, exitcode -6 (SIGABRT), error_file <N/A>
node2, torchrun:
  [rank3]: File "batches.py", line 88, in __getitem__
  [rank3]: IndexError: index 4194304 is out of bounds
  Sending process 5120 closing signal SIGTERM
  Root Cause (first observed failure):
    time 10:04:50, rank 3, exitcode 1, error_file /tmp/.../1/error.json
  Other failures:
    time 10:04:50, rank 2, exitcode -15 (SIGTERM), error_file <N/A>"""
"""What the two nodes of a job of four ranks wrote."""

_FIRST, _WHY = 3, "data"
_REASONS = {
    "network": "A link that breaks shows as an error of NCCL's or a socket's "
    "on several ranks: does one rank have an exception of its own?",
    "timeout": "A timeout is what a rank sees that waits: who was it that "
    "never came?",
    "memory": "A rank that runs out of memory says so, or is killed with "
    "signal 9: do you find either?",
    "data": "",
}


def check_first(answer: tuple[int, str] | None) -> str:
    """Judge which rank of `LOGS` failed first, and why.

    The reason is one of data, memory, network and timeout.
    """
    if answer is None:
        return MISSING
    rank, why = answer
    if rank not in range(4) or why not in _REASONS:
        names = ", ".join(sorted(_REASONS))
        return f"Not yet: give a rank from 0 to 3 and one of {names}."
    if rank != _FIRST:
        return (
            f"Not yet: rank {rank} is not the first. Each torchrun knows "
            "its own node alone: compare the times across the nodes, and "
            "who was ended by a signal."
        )
    return RIGHT if why == _WHY else f"Not yet: {_REASONS[why]}"


@dataclass(frozen=True)
class Entry:
    """A collective in one rank's flight record.

    Attributes:
        rank: who recorded it.
        group: the ranks that must all call it.
        number: which collective of this group it is.
        op: what it does.
        done: whether it has completed.
    """

    rank: int
    group: tuple[int, ...]
    number: int
    op: str
    done: bool


def recorded(
    late: int, tensor: Sequence[tuple[int, ...]], data: Sequence
) -> list[Entry]:
    """Return the record of a job whose rank `late` has gone astray.

    Every rank finishes number 40 in its group of `tensor` and 16 in that
    of `data`. Then `late` stops calling, and the others go on until they
    wait.
    """
    stuck: set[int] = set()
    entries = []
    for number, groups, op in ((40, tensor, "all_gather"),
                               (16, data, "all_reduce"),
                               (41, tensor, "all_gather"),
                               (17, data, "all_reduce")):  # fmt: skip
        if number > 40:
            stuck.add(late)
        waits = set()
        for group in groups:
            calls = [rank for rank in group if rank not in stuck]
            done = len(calls) == len(group)
            entries += [Entry(r, group, number, op, done) for r in calls]
            waits |= set() if done else set(calls)
        stuck |= waits
    return sorted(entries, key=lambda entry: entry.rank)


TENSOR, DATA = [(0, 1), (2, 3)], [(0, 2), (1, 3)]
RECORD = recorded(1, TENSOR, DATA)
"""The flight records of four ranks, tensor × data parallel."""


def shown(entries: Sequence[Entry]) -> str:
    """Return a flight record as a table, one collective a line."""
    lines = ["rank  group   number  op          state"]
    for each in entries:
        group = ",".join(map(str, each.group))
        state = "completed" if each.done else "started"
        which = f"{each.rank:4}  {group:6}  {each.number:6}"
        lines.append(f"{which}  {each.op:10}  {state}")
    return "\n".join(lines)


def check_blame(
    answer: Callable[[list[Entry]], tuple[int, tuple[int, ...], int]] | None,
) -> str:
    """Judge a function of a flight record that names who holds up all.

    It returns the rank, and the group and the number of the collective to
    which that rank has not come though another waits there.
    """
    if answer is None:
        return MISSING
    cases = [(late, TENSOR, DATA) for late in (1, 0, 3)]
    cases.append((2, [(0, 1, 2), (3, 4, 5)], [(0, 3), (1, 4), (2, 5)]))
    for late, tensor, data in cases:
        entries = recorded(late, tensor, data)
        what = f"a job of {2 * len(tensor[0])} ranks"
        rank, group, number = answer(list(entries))
        waiting = {e.rank for e in entries if not e.done}
        if rank in waiting:
            return (
                f"Not yet: in {what} you blame a rank that waits itself. "
                "Somebody holds it up."
            )
        if rank != late:
            return f"Not yet: in {what} you blame one that nobody waits for."
        if tuple(group) not in {e.group for e in entries if not e.done}:
            return f"Not yet: in {what} nobody waits in the group you name."
        if rank not in group:
            return f"Not yet: in {what} the rank is not of the group."
        waited = {
            e.number
            for e in entries
            if not e.done and e.group == tuple(group)
        }
        if number not in waited:
            return f"Not yet: in {what} that number is not waited for."
    return RIGHT


def check_interval(
    answer: Callable[[float, float, int], tuple[float, float]] | None,
) -> str:
    """Judge a function of δ (s), a node's MTBF (hours) and n nodes.

    It returns Young's interval in seconds, and the seconds that are then
    lost for each second of computing, to first order.
    """
    if answer is None:
        return MISSING
    for dump, hours, nodes in ((60, 5000, 1), (30, 4000, 64)):
        mtbf = mtbf_of(nodes, hours * 3600)
        interval, lost = answer(dump, hours, nodes)
        what = f"δ = {dump} s, {hours} h and {nodes} nodes"
        due = young(dump, mtbf)
        if not math.isclose(interval, due, rel_tol=1e-6):
            hint = "derive it again from δ/τ + τ/2M"
            if math.isclose(interval, young(dump, mtbf / 3600), rel_tol=1e-6):
                hint = "an hour is not a second"
            elif math.isclose(interval, due * nodes**0.5, rel_tol=1e-6):
                hint = "any of the nodes ends the job"
            return f"Not yet: the interval is wrong for {what}: {hint}."
        if not math.isclose(lost, dump / due + due / 2 / mtbf, rel_tol=1e-3):
            return (
                f"Not yet: the interval is right for {what}, and the loss "
                "is not: saving costs time, and so does repeating."
            )
    return RIGHT


class _Alone(Exception):
    """A rank waits in a collective for one that has left."""


class _Meeting:
    """Two threads that sum a number, and learn when one of them leaves."""

    def __init__(self) -> None:
        self.change = threading.Condition()
        self.given: dict[int, float] = {}
        self.sums: dict[int, float] = {}
        self.left: set[int] = set()

    def all_reduce(self, rank: int, value: float) -> float:
        """Return the sum over both ranks."""
        with self.change:
            self.given[rank] = value
            if len(self.given) == 2:
                total = sum(self.given.values())
                self.sums, self.given = dict.fromkeys((0, 1), total), {}
                self.change.notify_all()
            while rank not in self.sums:
                if self.left:
                    raise _Alone
                self.change.wait()
            return self.sums.pop(rank)

    def leave(self, rank: int) -> None:
        """Say that a rank calls nothing any more."""
        with self.change:
            self.left.add(rank)
            self.change.notify_all()


STEPS = 9  # of the loop of `check_stop` when nobody stops it


def check_stop(answer: Callable | None) -> str:
    """Judge a training loop that two ranks run, and a signal stops.

    It is called as `answer(steps, told, all_reduce, save)`: `told(step)`
    says whether this rank has had the signal, `all_reduce(x)` returns the
    sum of a number over the ranks, `save(step)` writes this rank's part.
    """
    if answer is None:
        return MISSING
    for heard in ((3, 3), (3, None), (None, 3), (4, 3), (None, None)):
        told = [at for at in heard if at is not None]
        when = " and ".join(
            f"rank {rank} in step {at}"
            for rank, at in enumerate(heard)
            if at is not None
        )
        what = f"told {when}" if told else "told nothing"
        saved, alone, raised = _train(answer, heard)
        if raised:
            return f"Not yet: {what}, a rank ends with {raised[0]!r}."
        if alone:
            return (
                f"Not yet: {what}, rank {alone[0]} is left alone in an "
                "all-reduce."
            )
        if saved[0] != saved[1]:
            return f"Not yet: {what}, they do not save the same steps."
        if not told and saved[0]:
            return f"Not yet: {what}, they save all the same."
        if told and len(saved[0]) != 1:
            return f"Not yet: {what}, each saves {len(saved[0])} times."
        if told and not min(told) <= saved[0][0] <= min(told) + 2:
            return f"Not yet: {what}, they save too early or too late."
    return RIGHT


def _train(answer: Callable, heard: Sequence[int | None]) -> tuple:
    """Run the loop on two ranks, of which each hears in a step of its own.

    Returns the steps that each saved, who waits alone, and exceptions.
    """
    meeting = _Meeting()
    saved: list[list[int]] = [[], []]
    alone: list[int] = []
    raised: list[Exception] = []

    def run(rank: int) -> None:
        at = heard[rank]
        try:
            answer(
                STEPS,
                lambda step: at is not None and step >= at,
                lambda value: meeting.all_reduce(rank, value),
                saved[rank].append,
            )
        except _Alone:
            alone.append(rank)
        except Exception as error:  # noqa: BLE001 the reader's own code
            raised.append(error)
        finally:
            meeting.leave(rank)

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join()
    return saved, alone, raised
