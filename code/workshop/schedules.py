"""Which pipeline schedules there are, and what each one needs.

Pure Python that also runs inside the published page. What the schedules do
is in `workshop.parallel.pipeline.schedule`.
"""

from workshop.errors import UserError

SCHEDULES = ("gpipe", "1f1b", "eager-1f1b", "interleaved")


def check_schedule(name, p, m, v):
    """Refuse a schedule that p ranks cannot run over m micro-batches.

    `v` is the number of chunks of a rank.

    Raises:
        UserError: the name is unknown, `v` does not go with the schedule,
            or `m` is not a multiple of `p` where interleaving needs it.
    """
    if name not in SCHEDULES:
        raise UserError(
            f"there is no pipeline schedule {name!r}: "
            f"choose one of {', '.join(SCHEDULES)}"
        )
    if name != "interleaved":
        if v > 1:
            raise UserError(
                f"the {name} schedule has one chunk of layers a rank and "
                f"{v} virtual stages were asked for: choose interleaved, or "
                "1 virtual stage"
            )
    elif v < 2 or p < 2:
        raise UserError(
            f"the interleaved schedule needs 2 or more virtual stages on 2 "
            f"or more ranks and got {v} on {p}: raise them, or choose 1f1b"
        )
    elif m % p:
        raise UserError(
            f"{m} micro-batches are not a multiple of the {p} pipeline "
            "stages, and the interleaved schedule takes them in groups of "
            f"{p}: give {-(-m // p) * p} micro-batches, or choose 1f1b"
        )
