"""The links that NVML tells are those that nvidia-smi prints."""

import re
import subprocess

from workshop.doctor import nvml


def nvidia_smi(*words: str) -> list[str]:
    done = subprocess.run(
        ["nvidia-smi", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()


def test_links_are_named_as_nvidia_smi_names_them() -> None:
    rows = [line.split() for line in nvidia_smi("topo", "-m")]
    printed = {row[0]: row[1:] for row in rows if row[:1] != ["X"] and row}
    links = nvml.links()
    count = len(links["devices"])
    assert count == len(nvml.devices()) > 0
    for device, row in zip(links["devices"], links["matrix"], strict=True):
        assert row == printed[device][:count]


def test_nvlinks_have_the_speed_that_nvidia_smi_prints() -> None:
    gb_per_s: dict[int, list[float]] = {}
    for line in nvidia_smi("nvlink", "-s"):
        if gpu := re.match(r"GPU (\d+):", line):
            speeds = gb_per_s.setdefault(int(gpu[1]), [])
        elif link := re.search(r"Link\s+\d+:\s+([0-9.]+) GB/s", line):
            speeds.append(float(link[1]))
    assert nvml.links()["nvlink"] == [
        {"gpu": gpu, "links": len(each), "gb_per_s": round(sum(each), 3)}
        for gpu, each in gb_per_s.items()
        if each
    ]


def test_gpus_are_described_as_nvidia_smi_lists_them() -> None:
    fields = "index,name,uuid,memory.total,driver_version"
    lines = nvidia_smi(
        f"--query-gpu={fields}", "--format=csv,noheader,nounits"
    )
    printed = [line.split(", ") for line in lines]
    assert [
        [
            str(gpu["index"]),
            gpu["name"],
            f"GPU-{gpu['uuid']}",
            f"{gpu['memory_mib']:.0f}",
            gpu["driver"],
        ]
        for gpu in nvml.devices()
    ] == printed
