"""What this machine is: GPUs and their links, CPU, host, software."""

from workshop.doctor.gpus import peer_access, visible_gpus
from workshop.doctor.host import cpu, host_identity
from workshop.doctor.nvml import devices as host_gpus
from workshop.doctor.nvml import links
from workshop.doctor.software import nccl_variables, software_versions


def describe() -> dict:
    """Return this machine's description, ready for `json.dumps`.

    Nothing here raises: what cannot be found out is None or empty.
    `gpus` are those that this process sees (`CUDA_VISIBLE_DEVICES`),
    `host_gpus` counts those of the whole machine.  No user name, home
    folder or other path is in it, so that it can be published.

    Returns:
        keys `gpus`, `host_gpus`, `driver`, `links`, `peer_access`, `cpu`,
        `host`, `software` and `nccl_variables`.
    """
    seen = visible_gpus()
    whole = host_gpus()
    return {
        "gpus": seen,
        "host_gpus": len(whole),
        "driver": whole[0]["driver"] if whole else None,
        "links": links(),
        "peer_access": peer_access(len(seen)),
        "cpu": cpu(),
        "host": host_identity(),
        "software": software_versions(),
        "nccl_variables": nccl_variables(),
    }


__all__ = ["describe", "host_gpus"]
