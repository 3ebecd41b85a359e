"""Write what was measured: measure events for the record, tables to read."""

from rich.console import Console
from rich.table import Table

from workshop.bench.links.all_reduce import Point
from workshop.bench.links.fit import Fit
from workshop.bench.links.point_to_point import Copy
from workshop.bench.links.send_recv import Message
from workshop.job.metrics import MetricsWriter

GB = 1e9
US = 1e-6


def write_devices(writer: MetricsWriter, devices: list[dict]) -> None:
    """Write each rank's `device_copy` (GB/s) and `matmul` (TFLOP/s)."""
    for rank, device in enumerate(devices):
        writer.measure("device_copy", device["copy"] / GB, "GB/s", rank=rank)
        writer.measure(
            "matmul", device["matmul"] / 1e12, "TFLOP/s", rank=rank
        )


def write_copies(writer: MetricsWriter, nodes: dict[int, list[Copy]]) -> None:
    """Write `p2p_bandwidth` (GB/s) and `p2p_latency` (µs) of each node.

    `from` and `to` are the node's own device numbers.
    """
    for node, copies in nodes.items():
        for c in copies:
            labels = {
                "node": node,
                "from": c.source,
                "to": c.target,
                "path": c.path,
            }
            for direction in ("unidirectional", "bidirectional"):
                value = getattr(c, direction)
                if value is not None:
                    writer.measure(
                        "p2p_bandwidth",
                        value / GB,
                        "GB/s",
                        direction=direction,
                        **labels,
                    )
            writer.measure("p2p_latency", c.latency / US, "µs", **labels)


def write_messages(writer: MetricsWriter, messages: list[Message]) -> None:
    """Write `send_recv_bandwidth` and `send_recv_latency` between ranks."""
    for m in messages:
        labels = {"from": m.source, "to": m.target}
        for direction in ("unidirectional", "bidirectional"):
            writer.measure(
                "send_recv_bandwidth",
                getattr(m, direction) / GB,
                "GB/s",
                direction=direction,
                **labels,
            )
        writer.measure("send_recv_latency", m.latency / US, "µs", **labels)


def write_curve(
    writer: MetricsWriter, points: list[Point], fit: Fit | None
) -> None:
    """Write the all-reduce's time, its two bandwidths and its α-β fit."""
    for p in points:
        writer.measure("all_reduce_time", p.seconds / US, "µs", bytes=p.bytes)
        writer.measure(
            "all_reduce_algbw",
            p.algorithm_bandwidth / GB,
            "GB/s",
            bytes=p.bytes,
        )
        writer.measure(
            "all_reduce_busbw", p.bus_bandwidth / GB, "GB/s", bytes=p.bytes
        )
    if fit is None:
        return
    writer.measure("all_reduce_alpha", fit.alpha / US, "µs")
    writer.measure("all_reduce_beta", fit.beta / GB, "GB/s")
    writer.measure(
        "all_reduce_fit_typical_error", 100 * fit.typical_error, "%"
    )
    writer.measure(
        "all_reduce_fit_largest_error", 100 * fit.largest_error, "%"
    )


def show_devices(console: Console, devices: list[dict]) -> None:
    """Print one row a rank."""
    table = Table("rank", "node", "device", "copy GB/s", "product TFLOP/s")
    for rank, d in enumerate(devices):
        table.add_row(
            str(rank),
            str(d["node"]),
            d["name"],
            number(d["copy"] / GB),
            number(d["matmul"] / 1e12),
        )
    console.print(table)


def show_copies(console: Console, nodes: dict[int, list[Copy]]) -> None:
    """Print one row a pair, each path beside the other."""
    table = Table("node", "copy", "path", "GB/s", "both ways GB/s", "8 B µs")
    for node, copies in nodes.items():
        for c in copies:
            table.add_row(
                str(node),
                f"{c.source} → {c.target}",
                c.path,
                number(c.unidirectional / GB),
                ""
                if c.bidirectional is None
                else number(c.bidirectional / GB),
                number(c.latency / US),
            )
    console.print(table)


def show_messages(console: Console, messages: list[Message]) -> None:
    """Print one row an ordered pair of ranks."""
    table = Table("send", "GB/s", "both ways GB/s", "8 B µs")
    for m in messages:
        table.add_row(
            f"{m.source} → {m.target}",
            number(m.unidirectional / GB),
            number(m.bidirectional / GB),
            number(m.latency / US),
        )
    console.print(table)


def show_curve(
    console: Console, points: list[Point], fit: Fit | None
) -> None:
    """Print one row a message size, and the fit in one line."""
    table = Table("all-reduce", "µs", "model µs", "algbw GB/s", "busbw GB/s")
    for p in points:
        table.add_row(
            bytes_text(p.bytes),
            number(p.seconds / US),
            number(fit.seconds(p.bytes) / US) if fit else "",
            number(p.algorithm_bandwidth / GB),
            number(p.bus_bandwidth / GB),
        )
    console.print(table)
    if fit:
        console.print(
            f"time = {fit.alpha / US:.1f} µs + bytes / "
            f"{fit.beta / GB:.2f} GB/s, off by "
            f"{100 * fit.typical_error:.0f} % (median) and "
            f"{100 * fit.largest_error:.0f} % (at most)"
        )


def number(value: float) -> str:
    """Return a value to four digits, whole from a thousand on."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def bytes_text(size: int) -> str:
    """Return a size as people write it: 8 B, 64 KiB, 1 GiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size} B"
