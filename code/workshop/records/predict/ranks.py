"""Steps of layouts whose ranks were measured alone, one after another.

A run of `workshop.lab1.one_rank` measured what each rank computes; only what
the ranks say to each other is predicted.
"""

from collections.abc import Mapping
from dataclasses import asdict

from workshop.errors import UserError
from workshop.estimate import time
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.records.values import Record, values


def measured(run: Record, part: str, name: str, micro_batch: int) -> list:
    """Return the seconds of a part of each stage of a layout.

    Args:
        run: of `workshop.lab1.one_rank`.
        part: forward, backward or update.
        name: of the layout, such as pp2cut12.

    Raises:
        UserError: the run did not measure the layout.
    """
    seconds = {
        int(labels["stage"]): entry["median"] / 1e3
        for labels, entry in values(run, f"{part}_ms")
        if labels["layout"] == name
        and int(labels["micro_batch"]) == micro_batch
    }
    if not seconds:
        raise UserError(
            f"the run {run.name} has not measured {name} with micro-batches "
            f"of {micro_batch}: choose another, or add it to --layouts"
        )
    return [seconds[stage] for stage in sorted(seconds)]


def predict(
    run: Record,
    name: str,
    micro_batch: int,
    links: Mapping[str, dict],
    num_microbatches: int = 1,
    overlap: bool = True,
    slowdown: float = 1.0,
) -> dict[str, float]:
    """Return the parts of a layout's step, its ranks measured alone.

    Args:
        run: of `workshop.lab1.one_rank`.
        name: of the layout, such as pp2cut12.
        micro_batch: sequences of a micro-batch.
        links: the link of each axis: dp, tp, pp.
        num_microbatches: micro-batches a step.
        overlap: whether messages run beside compute where they can.
        slowdown: how much longer compute takes beside messages.

    Raises:
        UserError: the run did not measure the layout.
    """
    model = asdict(CONFIGS[run.metrics(0)[0]["model"]])
    spread = Layout.from_name(
        name,
        model["layers"],
        micro_batch=micro_batch,
        num_microbatches=num_microbatches,
    )
    forward, backward, update = (
        measured(run, part, name, micro_batch)
        for part in ("forward", "backward", "update")
    )
    return time.step_time(
        model,
        spread,
        list(zip(forward, backward, strict=True)),
        links,
        optimizer=max(update),
        overlap=overlap,
        slowdown=slowdown,
    )
