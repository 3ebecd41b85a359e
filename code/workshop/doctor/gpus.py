"""The GPUs: those that this process sees, and those of the whole host."""

from workshop.doctor import nvml


def visible_gpus() -> list[dict]:
    """Return the GPUs that this process sees, in torch's order.

    Each has `index`, `host_index` (the driver's, which differs under
    `CUDA_VISIBLE_DEVICES`), `model`, `memory_gib`, `compute_capability`
    and `multiprocessors`; the last two are None where torch has no CUDA.
    """
    whole = nvml.devices()
    seen = _by_torch()
    if seen is None:
        return [
            {
                "index": gpu["index"],
                "host_index": gpu["index"],
                "model": gpu["name"],
                "memory_gib": _gib(gpu["memory_mib"]),
                "compute_capability": None,
                "multiprocessors": None,
            }
            for gpu in whole
        ]
    index_of = {gpu["uuid"]: gpu["index"] for gpu in whole}
    return [
        {
            "index": index,
            "host_index": index_of.get(str(getattr(gpu, "uuid", ""))),
            "model": gpu.name,
            "memory_gib": _gib(gpu.total_memory / 2**20),
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
        }
        for index, gpu in enumerate(seen)
    ]


def peer_access(count: int) -> list[list[bool]] | None:
    """Return whether GPU i (row) may read and write GPU j's memory.

    None where torch has no CUDA or an answer fails; a GPU counts as its
    own peer.
    """
    try:
        import torch

        if not torch.cuda.is_available():
            return None
        return [
            [
                i == j or bool(torch.cuda.can_device_access_peer(i, j))
                for j in range(count)
            ]
            for i in range(count)
        ]
    except Exception:  # a broken driver must not break a description
        return None


def _by_torch() -> list | None:
    try:
        import torch

        if not torch.cuda.is_available():
            return None
        return [
            torch.cuda.get_device_properties(index)
            for index in range(torch.cuda.device_count())
        ]
    except Exception:  # a broken driver must not break a description
        return None


def _gib(mib: float | None) -> float | None:
    return None if mib is None else round(mib / 1024, 2)
