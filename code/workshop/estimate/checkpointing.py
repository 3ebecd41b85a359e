"""How often to save a training that failures interrupt.

Pure Python that also runs inside the published page. All times are in one
unit, whichever. A job computes for an interval, writes a checkpoint for
`dump`, and computes on. Failures come at random with a mean time of `mtbf`
between them, whatever the job does then; what was computed since the last
checkpoint is lost, and it takes `restart` to be back there.
"""

from math import exp, expm1, sqrt


def mtbf_of(nodes, of_one):
    """Return the mean time between failures of a job on `nodes` nodes.

    Each of them fails on its own, after `of_one` on average, and any of
    them ends the job: their rates add up.
    """
    return of_one / nodes


def young(dump, mtbf):
    """Return the interval that Young found to lose least time (1974)."""
    return sqrt(2 * dump * mtbf)


def daly(dump, mtbf):
    """Return Daly's interval (2006), good where `dump` is not short too.

    From twice the mean time between failures on, a checkpoint hardly ever
    succeeds, and he takes the mean time itself.
    """
    if dump >= 2 * mtbf:
        return mtbf
    part = dump / (2 * mtbf)
    return young(dump, mtbf) * (1 + sqrt(part) / 3 + part / 9) - dump


def overhead(interval, dump, mtbf, restart=0):
    """Return the time that is lost for each unit of time computed.

    Without the approximations: the time that an interval takes is
    M exp(R / M) (exp((interval + dump) / M) - 1) on average (Daly 2006).
    """
    takes = mtbf * exp(restart / mtbf) * expm1((interval + dump) / mtbf)
    return takes / interval - 1


def simulated_overhead(intervals, interval, dump, mtbf, restart, random):
    """Return what one simulated job loses for each unit computed.

    Args:
        intervals: how many intervals the job computes.
        interval, dump, mtbf, restart: as in `overhead`.
        random: where failures come from, a `random.Random`.
    """
    now, fails = 0.0, random.expovariate(1 / mtbf)
    for _ in range(intervals):
        begun, needs = now, interval + dump
        while begun + needs > fails:
            begun = fails
            fails += random.expovariate(1 / mtbf)
            needs = restart + interval + dump
        now = begun + needs
    return now / (intervals * interval) - 1
