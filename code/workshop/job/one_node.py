r"""Start the ranks of one node, which meet on its loopback address.

  python -m workshop.job.one_node --nproc-per-node 2 \
    -m workshop.lab1.pretrain_gpt

This is `workshop.job.torchrun`, with torchrun's options. Two more things
differ from `--standalone`:

- the store in which the ranks meet listens on the loopback address alone,
  where that of torchrun listens on every address of the machine;
- it is reached by that address, so that the machine's own name need not
  resolve.
"""

import socket
import sys

from torch.distributed import TCPStore

from workshop.job import torchrun

HERE = "127.0.0.1"


def main(argv: list[str] | None = None) -> None:
    """Start the ranks and end as they did."""
    torchrun.main([*at_home(), *(argv or sys.argv[1:])])


def at_home() -> list[str]:
    """Open the store on the loopback; return the options that lead there.

    torchrun then finds it in this process, by its address and port.
    """
    global _store  # it lives as long as the process
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    _store = TCPStore(
        HERE,
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )
    address = [f"--local-addr={HERE}", f"--master-addr={HERE}"]
    return ["--nnodes=1", "--node-rank=0", *address, f"--master-port={port}"]


if __name__ == "__main__":
    main()
