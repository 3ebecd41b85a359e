"""All-reduce over NVLink by copy engines: no multiprocessor moves a byte.

A communication kernel occupies multiprocessors that backward needs; at worst
a matrix product with one block for every multiprocessor runs a second wave
for the few that found no place. Here each rank pulls its shard from its
peers' memory by copies, averages it in one small kernel, and pulls the other
shards the same way: a reduce-scatter and an all-gather, 2(n-1)/n of the
message per rank like the ring (Patarasuk and Yuan 2009), on engines made for
copying.
"""

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory
from torch.distributed import ProcessGroup

# Shards begin at multiples of this many elements: copy engines move long
# aligned runs fastest.
ALIGNMENT = 128


class CopyEngineAllReduce:
    """Average segments of one symmetric buffer over the ranks of a group.

    `buffer` is flat, of `elements` of `dtype`; `longest` is the number of
    elements of its longest segment. Segments start and end at multiples
    of `ranks * ALIGNMENT` elements.
    """

    def __init__(
        self,
        elements: int,
        longest: int,
        dtype: torch.dtype,
        device: torch.device,
        group: ProcessGroup,
    ) -> None:
        self.rank = dist.get_rank(group)
        self.ranks = dist.get_world_size(group)
        self.buffer = symmetric_memory.empty(
            elements, dtype=dtype, device=device
        )
        self.buffer.zero_()
        self.handle = symmetric_memory.rendezvous(self.buffer, group)
        # Each rank starts at another peer, so that no link is crowded.
        self.peers = [
            (self.rank + step) % self.ranks for step in range(1, self.ranks)
        ]
        self.remote = {
            peer: self.handle.get_buffer(peer, (elements,), dtype)
            for peer in self.peers
        }
        self.scratch = torch.empty(
            self.ranks - 1, longest // self.ranks, dtype=dtype, device=device
        )

    def average(self, start: int, stop: int) -> None:
        """Replace `buffer[start:stop]` by its mean over the ranks.

        Enqueues on the current stream. The segment must not be written
        again before `finish` has been enqueued as well.
        """
        length = (stop - start) // self.ranks
        mine = slice(
            start + self.rank * length, start + (self.rank + 1) * length
        )
        own = self.buffer[mine]
        self.handle.barrier(channel=0)
        for row, peer in enumerate(self.peers):
            part = self.scratch[row, :length]
            part.copy_(self.remote[peer][mine], non_blocking=True)
        for count, row in enumerate(range(self.ranks - 1), start=2):
            own.lerp_(self.scratch[row, :length], 1 / count)
        self.handle.barrier(channel=0)
        for peer in self.peers:
            shard = slice(start + peer * length, start + (peer + 1) * length)
            self.buffer[shard].copy_(
                self.remote[peer][shard], non_blocking=True
            )

    def finish(self) -> None:
        """Enqueue the barrier after which the buffer may be written again."""
        self.handle.barrier(channel=0)
