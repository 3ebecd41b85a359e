"""What a device can do at best: peak dense 16-bit operations a second.

Pure Python that also runs inside the published page: no torch, no imports.
Makers like to print the figure with structured sparsity, which is twice as
much; these are the dense ones, in TFLOP/s, with accumulation in float32.
bfloat16 and float16 run at the same rate, except on Volta and Turing, which
have float16 alone.
"""

H100_PAPER = "NVIDIA H100 Tensor Core GPU Architecture, table 2"
H200_SHEET = "NVIDIA H200 datasheet, half of the figure with sparsity"
H100_NVL_SHEET = "NVIDIA H100 NVL datasheet, half of the sparse figure"
B200_SHEET = "NVIDIA HGX B200 datasheet, half of the sparse figure"
A100_PAPER = "NVIDIA A100 Tensor Core GPU Architecture, table 1"
V100_SHEET = "NVIDIA V100 datasheet"
T4_SHEET = "NVIDIA T4 datasheet"
A10_SHEET = "NVIDIA A10 datasheet"
A30_SHEET = "NVIDIA A30 datasheet"
L4_SHEET = "NVIDIA L4 datasheet, half of the figure with sparsity"
L40_SHEET = "NVIDIA L40 datasheet"
L40S_SHEET = "NVIDIA L40S datasheet"
GA102_PAPER = "NVIDIA Ampere GA102 GPU Architecture"
ADA_PAPER = "NVIDIA Ada GPU Architecture, appendix A"

# (names as the driver gives them, TFLOP/s, source)
PEAKS = (
    (("B200",), 2250.0, B200_SHEET),
    (("H200",), 989.4, H200_SHEET),
    (("H100 80GB HBM3", "H100 SXM"), 989.4, H100_PAPER),
    (("H100 PCIe",), 756.0, H100_PAPER),
    (("H100 NVL", "H200 NVL"), 835.5, H100_NVL_SHEET),
    (
        (
            "A100-SXM4-40GB",
            "A100-SXM4-80GB",
            "A100-PCIE-40GB",
            "A100 80GB PCIe",
            "A100",
        ),
        312.0,
        A100_PAPER,
    ),
    (("A30",), 165.0, A30_SHEET),
    (("A10",), 125.0, A10_SHEET),
    (("A40",), 149.7, GA102_PAPER),
    (("RTX A6000",), 154.8, GA102_PAPER),
    (("RTX 3090",), 71.0, GA102_PAPER),
    (("RTX 4090",), 165.2, ADA_PAPER),
    (("L4",), 121.0, L4_SHEET),
    (("L40",), 181.05, L40_SHEET),
    (("L40S",), 362.05, L40S_SHEET),
    (
        ("V100-SXM2-16GB", "V100-SXM2-32GB", "V100"),
        125.0,
        V100_SHEET,
    ),
    (("V100-PCIE-16GB", "V100-PCIE-32GB"), 112.0, V100_SHEET),
    (("T4",), 65.0, T4_SHEET),
)

MAKERS = ("NVIDIA ", "Tesla ", "GeForce ")


def peak_flops(device):
    """Return the peak dense 16-bit FLOP/s of `device`, or None.

    `device` is the name that the driver gives, such as "NVIDIA H200"; the
    whole name must be known, because "RTX 4090 Laptop GPU" is another
    device than "RTX 4090" and a slice of a GPU (MIG) has a slice of its
    peak.  None means unknown: there is no default to fall back to.
    """
    entry = _find(device)
    return None if entry is None else round(entry[1] * 1e12)


def peak_source(device):
    """Return where the peak of `device` was published, or None."""
    entry = _find(device)
    return None if entry is None else entry[2]


def _find(device):
    name = device.strip()
    for maker in MAKERS:
        # MicroPython has no removeprefix.
        if name.startswith(maker):  # noqa: FURB188
            name = name[len(maker) :]
    for entry in PEAKS:
        if name.lower() in [known.lower() for known in entry[0]]:
            return entry
    return None
