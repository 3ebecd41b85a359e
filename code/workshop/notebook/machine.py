"""Say in a few lines what machine a run was recorded on."""

from workshop.records.load import Run
from workshop.records.node import SMI


def machine(run: Run) -> str:
    """Return the hardware of a record as text, one aligned line a fact.

    It names the layout, each node with its GPUs by the host's own
    numbers, the links between the GPUs, the processor and memory of the
    first node, and what NCCL used.  What the record does not know is left
    out.
    """
    hardware = run.record["hardware"]
    rows = [("layout", run.record["layout"])]
    rows += [(host["node"], _gpus_of(host)) for host in run.record["hosts"]]
    rows += _gpus(hardware["gpus"])
    rows += _links(hardware.get("links"), hardware.get("peer_access"))
    rows += _processor(hardware["cpu"])
    rows += _transports(run.record["transports"])
    width = max(len(what) for what, _ in rows)
    return "\n".join(f"{what:<{width}}  {text}" for what, text in rows)


def nvidia_smi(run: Run) -> str:
    """Return what nvidia-smi printed on a run's first node.

    An older record kept its matrix of links alone, and a run without GPUs
    has neither: one line says so.
    """
    kept = run.folder / "artifacts" / SMI
    if kept.is_file():
        return kept.read_text().rstrip()
    links = run.record["hardware"].get("links")
    if not links or not links["matrix"]:
        return "No GPU here, and so nothing that nvidia-smi could print."
    rows = [["", *links["devices"]]]
    for name, row in zip(links["devices"], links["matrix"], strict=True):
        rows.append([name, *row])
    table = "\n".join("".join(f"{x:<6}" for x in row) for row in rows)
    return f"This older record kept the matrix alone:\n{table}"


def _gpus_of(host: dict) -> str:
    numbers = [str(gpu["host_index"]) for gpu in host["gpus"]]
    if not numbers:
        return "no GPU"
    return f"GPU {' and '.join(numbers)} of its host"


def _gpus(gpus: list[dict]) -> list[tuple[str, str]]:
    kinds = {
        f"{gpu['model']}, {gpu['memory_gib']:g} GiB, "
        f"{gpu['multiprocessors']} multiprocessors"
        for gpu in gpus
    }
    return [("each GPU", kind) for kind in sorted(kinds)]


def _links(
    links: dict | None, peers: list[list[bool]] | None
) -> list[tuple[str, str]]:
    if links is None:
        return []
    rows = []
    names, matrix = links["devices"], links["matrix"]
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            if first.startswith("GPU") and second.startswith("GPU"):
                rows.append((f"{second}-{first}", matrix[j][i]))
    for speed in sorted(
        {(gpu["links"], gpu["gb_per_s"]) for gpu in links["nvlink"]}
    ):
        text = "{} links a GPU, {:.0f} GB/s each way in all".format(*speed)
        rows.append(("NVLink", text))
    if peers and len(peers) > 1:
        every = all(all(row) for row in peers)
        rows.append(("peer access", "yes" if every else "not between all"))
    return rows


def _processor(cpu: dict) -> list[tuple[str, str]]:
    memory = f"{cpu['memory_gib']:g} GiB"
    if cpu["memory_limit_gib"]:
        memory += f", limited to {cpu['memory_limit_gib']:g}"
    return [
        ("CPU", f"{cpu['model']}, {cpu['usable']} threads usable"),
        ("memory", memory),
    ]


def _transports(seen: dict) -> list[tuple[str, str]]:
    channels = ", ".join(seen["channels"])
    return [("NCCL used", channels)] if channels else []
