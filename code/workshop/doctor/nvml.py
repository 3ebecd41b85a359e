"""Ask NVIDIA's management library for the GPUs and their links.

Links have the names of `nvidia-smi topo -m`: NV18 is eighteen NVLinks,
PIX, PXB, PHB, NODE and SYS are ever longer ways over PCIe and between
processors.  Nothing here raises: without the library, a driver or an
answer there is nothing to tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager

try:
    import pynvml
except ImportError:  # a host without GPUs can do without
    pynvml = None

# What two GPUs have in common, as NVML counts it, from near to far.
WAYS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}


@contextmanager
def _handles() -> Iterator[list]:
    """Give a handle for each GPU of the host, none where that fails."""
    handles = []
    ready = False
    try:
        if pynvml is not None:
            pynvml.nvmlInit()
            ready = True
            handles = [
                pynvml.nvmlDeviceGetHandleByIndex(index)
                for index in range(pynvml.nvmlDeviceGetCount())
            ]
    except Exception:  # a broken driver must not break a description
        handles = []
    try:
        yield handles
    finally:
        if ready:
            _answer("nvmlShutdown")


def _answer(question: str, *arguments):
    """Return what NVML answers, None if it refuses or does not know."""
    try:
        return getattr(pynvml, question)(*arguments)
    except Exception:  # a broken driver must not break a description
        return None


def devices() -> list[dict]:
    """Return every GPU of the host, [] where none can be asked.

    Keys: `index`, `name`, `uuid` (as torch writes it), `memory_mib` and
    `driver`; what a GPU does not tell is None.
    """
    with _handles() as handles:
        driver = _answer("nvmlSystemGetDriverVersion") if handles else None
        described = []
        for index, handle in enumerate(handles):
            memory = _answer("nvmlDeviceGetMemoryInfo", handle)
            uuid = _answer("nvmlDeviceGetUUID", handle) or ""
            described.append(
                {
                    "index": index,
                    "name": _text(_answer("nvmlDeviceGetName", handle)),
                    "uuid": _text(uuid).removeprefix("GPU-"),
                    "memory_mib": memory and memory.total / 2**20,
                    "driver": _text(driver),
                }
            )
    return described


def links() -> dict | None:
    """Return how the GPUs of the host are joined, None without GPUs.

    Returns:
        `devices`: GPU0, GPU1, ...; `matrix`: for each of them a row of
        link names, "X" for itself, both empty if one cannot be told;
        `nvlink`: for each GPU with NVLinks the `links` that are active
        and their summed `gb_per_s` in one direction.
    """
    with _handles() as handles:
        if not handles:
            return None
        active = [_active_links(handle) for handle in handles]
        places = [_place(handle) for handle in handles]
        matrix = [
            [
                "X" if i == j else _way(handles, active, places, i, j)
                for j in range(len(handles))
            ]
            for i in range(len(handles))
        ]
        known = all(way for row in matrix for way in row)
        nvlink = [
            {
                "gpu": index,
                "links": len(numbers),
                "gb_per_s": round(_speed(handles[index], numbers), 3),
            }
            for index, numbers in enumerate(active)
            if numbers
        ]
    names = [f"GPU{index}" for index in range(len(matrix))]
    return {
        "devices": names if known else [],
        "matrix": matrix if known else [],
        "nvlink": nvlink,
    }


def _active_links(handle) -> list[int]:
    """Return the numbers of a GPU's active NVLinks."""
    return [
        number
        for number in range(pynvml.NVML_NVLINK_MAX_LINKS)
        if _answer("nvmlDeviceGetNvLinkState", handle, number) == 1
    ]


def _speed(handle, numbers: list[int]) -> float:
    """Return the summed speed of NVLinks in GB/s, one direction."""
    field = pynvml.NVML_FI_DEV_NVLINK_GET_SPEED
    asked = [(field, number) for number in numbers]
    values = _answer("nvmlDeviceGetFieldValues", handle, asked) or ()
    if any(value.nvmlReturn for value in values) or not len(values):
        # Older drivers tell one speed for all links.
        field = pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON
        asked = [field] * len(numbers)
        values = _answer("nvmlDeviceGetFieldValues", handle, asked) or ()
    return sum(v.value.uiVal for v in values if not v.nvmlReturn) / 1000


def _place(handle) -> tuple[int, int, int] | None:
    """Return where a GPU sits on the PCI bus."""
    return _bus(_answer("nvmlDeviceGetPciInfo", handle))


def _bus(info) -> tuple[int, int, int] | None:
    return info and (info.domain, info.bus, info.device)


def _way(handles, active, places, i: int, j: int) -> str | None:
    """Return the name of the link between GPUs `i` and `j`, None: unknown.

    A link that ends at a switch reaches every GPU of the host; one that
    ends at another GPU reaches only that.
    """
    count = 0
    for number in active[i]:
        ends = _answer("nvmlDeviceGetNvLinkRemotePciInfo", handles[i], number)
        if ends and _bus(ends) in places:
            count += _bus(ends) == places[j]
        else:
            count += bool(active[j]) and _at_switch(handles[i], number)
    if count:
        return f"NV{count}"
    common = _answer(
        "nvmlDeviceGetTopologyCommonAncestor", handles[i], handles[j]
    )
    return WAYS.get(common)


def _at_switch(handle, number: int) -> bool:
    """Say whether an NVLink ends at a switch, or at nothing we can see."""
    kind = _answer("nvmlDeviceGetNvLinkRemoteDeviceType", handle, number)
    return kind not in (
        pynvml.NVML_NVLINK_DEVICE_TYPE_GPU,
        pynvml.NVML_NVLINK_DEVICE_TYPE_IBMNPU,
    )


def _text(answer: str | bytes | None) -> str | None:
    return answer.decode() if isinstance(answer, bytes) else answer
