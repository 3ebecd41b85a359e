"""Ranks that are more than the GPUs, and share one."""


def sharing(rank: int) -> dict[str, str]:
    """Return the variables with which ranks share a GPU under NCCL.

    NCCL refuses two ranks of a host on one GPU. Here each rank says that it
    is a host of its own, and they meet over sockets: slow, and right.
    Symmetric memory must be told that they may overlap.
    """
    return {
        "NCCL_HOSTID": f"rank-{rank}",
        "NCCL_SOCKET_IFNAME": "lo",
        "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1",
    }
