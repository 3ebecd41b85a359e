"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.measure_links

Measures what a training step is made of: each device's own memory and
arithmetic, copies between the memories of a node, messages between ranks,
and the all-reduce over the size of its message with its α-β model.  Runs on
GPUs with NCCL and on CPUs with gloo, in one node or in several.
"""

import argparse
import os
import socket
from dataclasses import dataclass

import torch
import torch.distributed as dist
from rich.console import Console

from workshop.bench.links import report
from workshop.bench.links.all_reduce import (
    all_reduce_curve,
    check_sum,
    message_sizes,
)
from workshop.bench.links.device_memory import (
    Sizes,
    copy_bandwidth,
    matmul_rate,
)
from workshop.bench.links.fit import Fit, fit_alpha_beta
from workshop.bench.links.point_to_point import Copy, copy_matrix
from workshop.bench.links.send_recv import message_matrix
from workshop.doctor.gpus import peer_access
from workshop.doctor.host import host_identity
from workshop.job.launch import launched, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.job.options import Parser, check_numbers


@dataclass(frozen=True)
class Place:
    """Where this rank runs; `control` is a CPU group of all ranks."""

    rank: int
    world: int
    node: int
    leads_node: bool
    device: torch.device
    control: dist.ProcessGroup


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and write measure events from rank 0."""
    with launched() as job:
        options = together(lambda: parse(arguments))
        if job.device.type == "cpu":
            torch.set_num_threads(1)
        place = Place(
            rank=job.rank,
            world=job.world_size,
            node=int(os.environ.get("GROUP_RANK", 0)),
            leads_node=int(os.environ.get("LOCAL_RANK", 0)) == 0,
            device=job.device,
            # idle ranks wait here: in NCCL they would keep their GPU busy
            control=dist.new_group(backend="gloo"),
        )
        path = metrics_path(options.metrics) if job.first else None
        with together(lambda: MetricsWriter(path)) as writer:
            measure(place, options, writer)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options.

    Raises:
        UserError: the longest message is shorter than 1 MiB.
    """
    parser = Parser(
        prog="workshop.lab1.measure_links",
        description=__doc__.partition("\n\n")[2],
    )
    parser.add_argument(
        "--max-mib",
        type=int,
        help="the longest message in MiB (1024 on GPUs, 1 on CPUs)",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="a CPU's sizes, for a quick look on any device",
    )
    parser.add_argument("--metrics", help="write the measures to this file")
    options = parser.parse_args(arguments)
    check_numbers(options, {"max_mib": 1})
    return options


def measure(
    place: Place, options: argparse.Namespace, writer: MetricsWriter
) -> None:
    """Run every part in turn, on all ranks."""
    console = Console(width=90, quiet=place.rank != 0)
    full = place.device.type == "cuda" and not options.small
    largest = (options.max_mib or (1024 if full else 1)) * 2**20
    message = min(largest, 256 * 2**20)
    check_sum(place.device)
    about = gathered(place, describe(place))
    writer.meta(
        world_size=place.world,
        small=not full,
        nodes=len({rank["node"] for rank in about}),
        hosts=len({rank["boot_id"] for rank in about}),
        backend="nccl" if place.device.type == "cuda" else "gloo",
        devices=[rank["name"] for rank in about],
        peer_access=about[0]["peer_access"],
        message_bytes=message,
        torch=torch.__version__,
    )

    console.print(f"{place.world} ranks: each device alone ...")
    own = measure_device(place, Sizes.of(place.device, full))
    devices = gathered(place, {**describe(place), **own})
    report.write_devices(writer, devices)
    report.show_devices(console, devices)

    console.print("copies between the devices of a node ...")
    copies = measure_copies(place, message)
    report.write_copies(writer, copies)
    report.show_copies(console, copies)

    if place.world == 1:
        console.print("one rank: there is nobody to exchange messages with")
        return

    console.print("messages between ranks ...")
    messages = message_matrix(place.device, message, place.control)
    report.write_messages(writer, messages)
    report.show_messages(console, messages)

    console.print("all-reduce over the size of the message ...")
    sizes = message_sizes(largest)
    points = all_reduce_curve(place.device, sizes, place.control)
    fit = curve_fit(points)
    report.write_curve(writer, points, fit)
    report.show_curve(console, points, fit)


def describe(place: Place) -> dict:
    """Return what a reader must know of one rank."""
    cuda = place.device.type == "cuda"
    return {
        "node": place.node,
        "boot_id": host_identity()["boot_id"],
        "name": (
            torch.cuda.get_device_name(place.device)
            if cuda
            else f"CPU of {socket.gethostname()}"
        ),
        "peer_access": (
            peer_access(torch.cuda.device_count()) if cuda else None
        ),
    }


def measure_device(place: Place, sizes: Sizes) -> dict:
    """Return this rank's own rates; all ranks do it at the same time."""
    rates = {
        "copy": copy_bandwidth(place.device, sizes.copy_bytes),
        "matmul": matmul_rate(place.device, sizes.matrix, sizes.dtype),
    }
    release(place)
    return rates


def measure_copies(place: Place, size: int) -> dict[int, list[Copy]]:
    """Return every node's copies, measured by the first rank of each."""
    mine = None
    if place.leads_node:
        devices = [place.device]
        if place.device.type == "cuda":
            count = torch.cuda.device_count()
            devices = [torch.device("cuda", i) for i in range(count)]
        mine = (place.node, copy_matrix(devices, size))
    release(place)
    return dict(part for part in gathered(place, mine) if part)


def curve_fit(points: list) -> Fit | None:
    """Return the α-β fit of the curve, None where no bandwidth fits."""
    try:
        return fit_alpha_beta(
            [p.bytes for p in points], [p.seconds for p in points]
        )
    except ValueError:
        return None


def gathered(place: Place, mine: object) -> list:
    """Return what every rank has, in the order of the ranks."""
    parts: list = [None] * place.world
    dist.all_gather_object(parts, mine, group=place.control)
    return parts


def release(place: Place) -> None:
    """Give the device's memory back for the next part."""
    if place.device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
