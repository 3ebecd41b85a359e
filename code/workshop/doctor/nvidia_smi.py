"""Ask `nvidia-smi`, and read its two tables of links.

`nvidia-smi topo -m` prints a matrix of how each pair of devices is joined:
NV18 is eighteen NVLinks, PIX, PXB, PHB, NODE and SYS are ever longer ways
over PCIe and between processors.  `nvidia-smi nvlink -s` prints the speed
of each NVLink of each GPU.
"""

import re
import shutil
import subprocess

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_LINK = re.compile(r"Link\s+\d+:\s+([0-9.]+)\s+GB/s")
_GPU = re.compile(r"GPU\s+(\d+):")


def ask(*arguments: str, seconds: float = 20.0) -> str | None:
    """Return what `nvidia-smi ARGUMENTS` prints, None when it cannot."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def query(*fields: str) -> list[dict[str, str]]:
    """Return one dictionary a GPU with `fields` as nvidia-smi names them."""
    text = ask(
        f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"
    )
    rows = []
    for line in (text or "").splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(fields):
            rows.append(dict(zip(fields, values, strict=True)))
    return rows


def parse_topology(text: str) -> dict | None:
    """Return the matrix of `nvidia-smi topo -m`, None when there is none.

    Returns:
        `devices`: names such as GPU0 or NIC0, as the table orders them;
        `matrix`: for each of them a row of link names, "X" for itself.
    """
    lines = [_ESCAPE.sub("", line) for line in text.splitlines()]
    header = next((line for line in lines if "GPU0" in line.split()), None)
    if header is None:
        return None
    devices = [
        word for word in header.split() if re.fullmatch(r"(GPU|NIC)\d+", word)
    ]
    rows = {}
    for line in lines[lines.index(header) + 1 :]:
        words = line.split()
        if words and words[0] in devices:
            rows[words[0]] = words[1 : 1 + len(devices)]
    matrix = [rows.get(device, []) for device in devices]
    if any(len(row) != len(devices) for row in matrix):
        return None
    return {"devices": devices, "matrix": matrix}


def parse_nvlink(text: str) -> list[dict]:
    """Return for each GPU its active NVLinks and their summed GB/s.

    The speed is that of one direction, as nvidia-smi prints it.
    """
    found: list[dict] = []
    for line in text.splitlines():
        if gpu := _GPU.match(line.strip()):
            found.append(
                {"gpu": int(gpu.group(1)), "links": 0, "gb_per_s": 0.0}
            )
        elif (link := _LINK.search(line)) and found:
            found[-1]["links"] += 1
            total = found[-1]["gb_per_s"] + float(link.group(1))
            found[-1]["gb_per_s"] = round(total, 3)
    return found


def links() -> dict | None:
    """Return the links of this machine, None where nvidia-smi is not."""
    topology = parse_topology(ask("topo", "-m") or "")
    nvlink = parse_nvlink(ask("nvlink", "-s") or "")
    if topology is None and not nvlink:
        return None
    return {**(topology or {"devices": [], "matrix": []}), "nvlink": nvlink}
