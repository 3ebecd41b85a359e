"""Peak figures: known devices by their whole name, no silent default."""

import pytest

from workshop.estimate.hardware import PEAKS, peak_flops, peak_source


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("Tesla V100-SXM2-32GB", 125.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_known_devices(name, tflops):
    assert peak_flops(name) == pytest.approx(tflops * 1e12)
    assert peak_source(name)


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "",
        "NVIDIA H1000",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ],
)
def test_an_unknown_device_has_no_peak(name):
    assert peak_flops(name) is None
    assert peak_source(name) is None


def test_a_name_stands_in_the_table_once():
    names = [n.lower() for entry in PEAKS for n in entry[0]]
    assert len(names) == len(set(names))
