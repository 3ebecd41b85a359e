"""Collectives that can count the traffic they cause.

Each function calls torch.distributed and, inside `count()`, also writes an
entry into the ledger: elements, bytes of the message, and the bytes that
THIS rank sends when the collective runs as a ring. With n ranks and a
message of M bytes (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce
algorithms for clusters of workstations", JPDC 69(2)):

    reduce-scatter  (n-1)/n · M     M = the input, which all ranks hold
    all-gather      (n-1)/n · M     M = the output, which all ranks get
    all-reduce     2(n-1)/n · M     a reduce-scatter, then an all-gather
    broadcast      M, and 0 on the last rank of the chain
    send           M, and receive 0: the two ends of one message

These are counts of the theory, not of a wire: a library may choose a tree
or let a switch do the sum. Traffic is in bytes and in elements; a GB is
1e9 bytes. Outside `count()` a collective pays for one check of a tuple.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """One collective, as this rank took part in it."""

    operation: str
    elements: int
    message_bytes: int
    group_size: int
    ring_bytes: Fraction


@dataclass
class Ledger:
    """The collectives of this rank since `count()` was entered."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """How many collectives were called."""
        return len(self.entries)

    @property
    def elements(self) -> int:
        """The elements of all messages together."""
        return sum(entry.elements for entry in self.entries)

    @property
    def message_bytes(self) -> int:
        """The bytes of all messages together."""
        return sum(entry.message_bytes for entry in self.entries)

    @property
    def bytes_sent(self) -> float:
        """The bytes that this rank sends, by the ring formulas."""
        return float(sum(entry.ring_bytes for entry in self.entries))


# torch 2.13 renames both and warns of the names that 2.11 has.
_reduce_scatter = getattr(
    dist, "reduce_scatter_single", dist.reduce_scatter_tensor
)
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)

# Not a context variable: backward hooks run on autograd's own threads.
_open: tuple[Ledger, ...] = ()


@contextmanager
def count() -> Iterator[Ledger]:
    """Count the collectives of this process while the context is open.

    Contexts nest, and each counts what happens inside it.
    """
    global _open
    ledger = Ledger()
    before, _open = _open, (*_open, ledger)
    try:
        yield ledger
    finally:
        _open = before


def ring_bytes(
    operation: str, message_bytes: int, group_size: int, place: int = 0
) -> Fraction:
    """Return the bytes that one rank sends in a ring.

    Args:
        operation: `all_reduce`, `reduce_scatter`, `all_gather`, `broadcast`,
            `send`, `receive`.
        message_bytes: bytes of the whole message M, as the table above says.
        group_size: the number of ranks n.
        place: for a broadcast, how many ranks after the source this one is.
    """
    if operation == "broadcast":
        return Fraction(message_bytes if place < group_size - 1 else 0)
    if operation in ("send", "receive"):
        return Fraction(message_bytes if operation == "send" else 0)
    passes = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}
    share = Fraction(group_size - 1, group_size)
    return passes[operation] * share * message_bytes


def record(
    operation: str, message: Tensor, group: dist.ProcessGroup, place: int = 0
) -> None:
    """Write a collective into the open ledgers.

    For code that moves `message` by other means than this module, such as
    copies between GPUs. The arguments are those of `ring_bytes`.
    """
    if not _open:
        return
    size, n = message.numel() * message.element_size(), group.size()
    sent = ring_bytes(operation, size, n, place)
    entry = Entry(operation, message.numel(), size, n, sent)
    for ledger in _open:
        ledger.entries.append(entry)


def all_reduce(
    tensor: Tensor,
    group: dist.ProcessGroup,
    op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    async_op: bool = False,
) -> dist.Work | None:
    """Combine `tensor` over the group, in place, on every rank.

    Args:
        tensor: any shape, contiguous, the same on every rank.
        op: how elements combine.
        async_op: return a handle to wait for, instead of waiting.
    """
    if _open:
        record("all_reduce", tensor, group)
    return dist.all_reduce(tensor, op, group, async_op)


def reduce_scatter(
    output: Tensor,
    tensor: Tensor,
    group: dist.ProcessGroup,
    op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM,
    async_op: bool = False,
) -> dist.Work | None:
    """Combine `tensor` over the group and keep this rank's part of it.

    Args:
        output: `[rows, ...]`, receives part `rank` of the result.
        tensor: `[n * rows, ...]`, contiguous.
        op: how elements combine.
        async_op: return a handle to wait for, instead of waiting.
    """
    if _open:
        record("reduce_scatter", tensor, group)
    return _reduce_scatter(output, tensor, op, group, async_op)


def all_gather(
    output: Tensor,
    tensor: Tensor,
    group: dist.ProcessGroup,
    async_op: bool = False,
) -> dist.Work | None:
    """Gather every rank's part on every rank, in the order of the ranks.

    Args:
        output: `[n * rows, ...]`, contiguous, receives all parts.
        tensor: `[rows, ...]`, this rank's part.
        async_op: return a handle to wait for, instead of waiting.
    """
    if _open:
        record("all_gather", output, group)
    return _all_gather(output, tensor, group, async_op)


def broadcast(
    tensor: Tensor,
    group: dist.ProcessGroup,
    source: int = 0,
    async_op: bool = False,
) -> dist.Work | None:
    """Copy the source's `tensor` over that of every other rank, in place.

    Args:
        tensor: any shape, contiguous, the same on every rank.
        source: the sender's rank WITHIN the group.
        async_op: return a handle to wait for, instead of waiting.
    """
    if _open:
        place = (group.rank() - source) % group.size()
        record("broadcast", tensor, group, place)
    return dist.broadcast(
        tensor, group=group, group_src=source, async_op=async_op
    )


def send(
    tensor: Tensor, group: dist.ProcessGroup, to: int, tag: int = 0
) -> dist.Work:
    """Start to send `tensor` to one rank, and return a handle to wait for.

    Args:
        tensor: any shape, contiguous; it must stay as it is until then.
        to: the receiver's rank WITHIN the group.
        tag: the number that the receiver gives. NCCL ignores it and matches
            messages between two ranks of a group by their order.
    """
    if _open:
        record("send", tensor, group)
    return dist.isend(tensor, group=group, tag=tag, group_dst=to)


def receive(
    tensor: Tensor, group: dist.ProcessGroup, source: int, tag: int = 0
) -> dist.Work:
    """Start to receive into `tensor`, and return a handle to wait for.

    Args:
        tensor: contiguous, of the sender's shape and dtype.
        source: the sender's rank WITHIN the group.
        tag: the number that the sender gives, as `send` says.
    """
    if _open:
        record("receive", tensor, group)
    return dist.irecv(tensor, group=group, tag=tag, group_src=source)


def exchange(
    group: dist.ProcessGroup,
    sent: tuple[Tensor, int, int] | None,
    received: tuple[Tensor, int, int] | None,
) -> list[dist.Work]:
    """Start to send to one rank and to receive from another, both at once.

    Args:
        sent: a contiguous tensor, the receiver's rank WITHIN the group, and
            a tag as `send` takes it.
        received: where a tensor goes, its sender's rank, and its tag.

    NCCL gets both as one operation, so that two ranks which exchange never
    wait for each other. Returns the handles to wait for.
    """
    operations = []
    for kind, start, pair in (
        ("send", dist.isend, sent),
        ("receive", dist.irecv, received),
    ):
        if pair is not None:
            tensor, other, tag = pair
            if _open:
                record(kind, tensor, group)
            operations.append(
                dist.P2POp(
                    start, tensor, group=group, tag=tag, group_peer=other
                )
            )
    return dist.batch_isend_irecv(operations) if operations else []
