"""How long a pipeline runs and how much it holds, in closed form.

Pure Python that also runs inside the published page.  Symbols: p stages,
m micro-batches a step, v chunks a rank.  Narayanan et al. 2021
(arXiv 2104.04473), section 2.2.
"""


def bubble_over_ideal(p, m, v=1):
    """Return the idle share of a rank over its ideal time: (p-1) / (v m)."""
    return (p - 1) / (v * m)


def bubble_over_total(p, m, v=1):
    """Return the idle share of a rank over the whole step.

    (p-1) / (v m + p - 1): of v m + p - 1 slots, p - 1 are idle.
    """
    return (p - 1) / (v * m + p - 1)


def in_flight(schedule, p, m, v=1, stage=0):
    """Return how many forwards a rank holds before their backwards, at most.

    Each is one micro-batch in one of the rank's v chunks.  GPipe holds all
    m.  1F1B holds one for each stage from its own to the last.  The
    interleaved schedule warms up for 2 (p - stage - 1) + (v - 1) p
    forwards and runs one more before its first backward, and so does eager
    1F1B with its one chunk.
    """
    if schedule == "gpipe":
        return m * v
    if schedule == "1f1b":
        return min(m, p - stage)
    return min(m * v, 2 * (p - stage - 1) + (v - 1) * p + 1)


def held_at_backwards(schedule, p, m, v=1, stage=0):
    """Yield what a rank holds each time that a backward begins.

    Pairs: of each of its v chunks the micro-batches that are held, a list,
    and the chunk whose backward it is.  Interleaved, micro-batches go in
    groups of p through the first chunk, then through the next; backwards
    take the chunks in reverse.  What is held grows only between two
    backwards, so its peak is one of these moments.
    """
    passes = m * v
    if schedule == "gpipe":
        first = passes
    elif schedule == "1f1b":
        first = p - stage
    else:
        first = 2 * (p - stage - 1) + (v - 1) * p + 1
    held = [0] * v
    begun = 0
    for done in range(passes):
        while begun < min(passes, first + done):
            held[begun // p % v] += 1
            begun += 1
        chunk = v - 1 - done // p % v
        yield list(held), chunk
        held[chunk] -= 1


def pipeline_seconds(stages, m, v=1, hand_over=0.0, schedule="1f1b"):
    """Return the parts of a step of a pipeline: a dict of seconds.

    Args:
        stages: of each rank, the seconds of one micro-batch, forward and
            backward through all its chunks.
        m: the micro-batches.
        v: the chunks of a rank.
        hand_over: seconds of a message between neighbours.

    The slowest rank works m times.  While the first micro-batch comes and
    the last one goes, it waits for the others' passes, a chunk at a time:
    (sum - slowest) / v.  `compute` is the mean rank's work, `imbalance`
    what the slowest does beyond it, `bubble` that waiting.

    A micro-batch crosses 2 (p - 1) borders on its way through p ranks and
    back, which the first one always pays; interleaved 2 (p v - 1).  GPipe
    and the interleaved schedule have others to work on meanwhile.  1F1B has
    p micro-batches on the way and starts another when one has come back:
    each round of p pays what the way takes beyond the slowest rank's p
    passes.  Eager 1F1B has 2 p - 1 on the way, and pays by the round of
    these.  Exact for two stages; with more, backward's longer passes cost
    1F1B a little on top.
    """
    p = len(stages)
    slowest, total = max(stages), sum(stages)
    way = 2 * (p * v - 1) * hand_over
    if schedule in ("1f1b", "eager-1f1b"):
        held = in_flight(schedule, p, p + m, v)
        more = max(0.0, total + way - held * slowest)
        way += (-(-m // held) - 1) * more
    parts = {
        "compute": m * total / p,
        "imbalance": m * (slowest - total / p),
        "bubble": (total - slowest) / v,
        "hand_over": way,
    }
    parts["total"] = sum(parts.values())
    return parts
