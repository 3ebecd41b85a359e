"""What the ranks of megatron-core's pool import, imported once for all."""

import megatron_cpu

megatron_cpu.patch()

import workshop.bench.megatron  # noqa: E402
import workshop.peers.megatron.trainer  # noqa: E402, F401
