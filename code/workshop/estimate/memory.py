"""How many bytes a rank of a layout needs, and whether they fit a device.

Pure Python that also runs inside the published page.  Capacity is in
bytes; divide by 2**30 for GiB.  Symbols as in `workshop.estimate.stages`.
Parameters and states are exact; activations follow Korthikanti et al. 2022
(arXiv 2205.05198), section 4, for attention that never writes its matrix.
"""

from workshop.estimate.pipeline import held_at_backwards
from workshop.estimate.stages import chunks_of, rank_parameters

# Bytes of a parameter: weights, gradients and optimizer states of AdamW, in
# every precision of the trainer.  Narrow weights have float32 masters besides
# the two moments: 16 bytes in all, the 16 of Rajbhandari et al. 2019 (arXiv
# 1910.02054), section 3.1; with gradients in float32 Megatron's 18.
WIDE = {"weights": 4, "gradients": 4, "optimizer": 8}
MASTERS = {"weights": 2, "gradients": 2, "optimizer": 12}
STATES = {
    "float32": WIDE,
    "tf32": WIDE,
    "fp16": WIDE,
    "bf16": WIDE,
    "fp16-weights": MASTERS,
    "bf16-weights": MASTERS,
    "bf16-weights-float32-gradients": {**MASTERS, "gradients": 4},
    "pure-bf16": {"weights": 2, "gradients": 2, "optimizer": 4},
    "fp8": MASTERS,
}

# cuBLAS keeps 32 MiB on a Hopper GPU for each thread that multiplies: the
# one of forward and autograd's.
LIBRARY = 2 * 32 * 2**20

# Usable memory as the driver reports it, in bytes.
DEVICES = {"NVIDIA H200": 143771 * 2**20}


def state_bytes(model, layout, stage=0, precision="bf16-weights"):
    """Return the bytes of weights, gradients and optimizer, exactly.

    Each rank of the data parallel group holds all of them.
    """
    held = rank_parameters(model, layout, stage)["total"]
    return {part: held * each for part, each in STATES[precision].items()}


def layer_bytes(model, layout, element_bytes=2):
    """Return what one layer keeps of a micro-batch for its backward.

    In units of b s h elements: the inputs of both LayerNorms and of both
    column-parallel products, 4, which tensor parallelism leaves whole and
    sequence parallelism splits; and split in either case q, k, v and the
    attention's output, 4, and the hidden activation before and after GELU,
    8.  In 16 bit 32 s b h bytes, the paper's 34 less two masks of dropout,
    which the models here do not use; s b h (8 + 24 / t) with tensor
    parallelism.  Flash attention
    keeps a logarithm for each head and row in float32, 4 b a s bytes, and
    each LayerNorm two numbers for each row.
    """
    b, s, h = layout.micro_batch, model["sequence"], model["hidden"]
    t = layout.tp
    whole = t if layout.sequence_parallel else 1
    elements = 4 * b * s * h // whole + 12 * b * s * h // t
    logarithms = 4 * b * model["heads"] * s // t
    statistics = 4 * b * s * element_bytes // whole
    return elements * element_bytes + logarithms + statistics


def head_bytes(model, layout, element_bytes=2, compiled=True):
    """Return what the head keeps of a micro-batch for its backward.

    The input and output of its LayerNorm, and the logits b s V / t: for a
    vocabulary of 50,304 the largest tensor of a step.  Compiled, they stay
    in 16 bit, their float32 form exists inside kernels alone, and the
    maximum and the sum of each row are kept; eager, log-softmax keeps a
    float32 copy.  The vocabulary-parallel cross-entropy keeps 16 bit either
    way, one number for each row and, compiled, one for all that count.
    """
    b, s, h = layout.micro_batch, model["sequence"], model["hidden"]
    t = layout.tp
    whole = t if layout.sequence_parallel else 1
    rows = -(-model["vocabulary"] // t)
    narrow = compiled or t > 1
    of_logits = element_bytes if narrow else max(4, element_bytes)
    norm = (2 * b * s * h // whole + 2 * b * s // whole) * element_bytes
    sums = 4 * (b * s + compiled) if t > 1 else 8 * b * s * narrow
    return b * s * rows * of_logits + sums + norm


def head_workspace(model, layout, element_bytes=2, compiled=True):
    """Return what the head's backward needs beside what was kept.

    The gradient of its weight V h / t.  Compiled, the gradient of the
    logits takes the logits' own place, and that of the input comes when the
    input is free.  A tensor parallel head has both gradients at once, and
    under sequence parallelism the gathered input too.  Eager, the gradient
    of the logits and the one that it is computed from are float32 tensors.
    """
    b, s, h = layout.micro_batch, model["sequence"], model["hidden"]
    t = layout.tp
    rows = -(-model["vocabulary"] // t)
    inputs = 0
    if t > 1 or not compiled:
        inputs = 2 if layout.sequence_parallel else 1
    workspace = (rows * h + inputs * b * s * h) * element_bytes
    if compiled or t > 1:
        return workspace
    return workspace + 2 * b * s * rows * max(4, element_bytes)


def stage_workspace(model, layout, element_bytes=2):
    """Return what the first backward of a stage without the head needs.

    The gradient that has come from the next stage, the next one on its way,
    and the gradient of a weight of 4 h^2 / t.
    """
    b, s, h = layout.micro_batch, model["sequence"], model["hidden"]
    share = layout.tp if layout.sequence_parallel else 1
    weight = 4 * h * h // layout.tp
    return (2 * b * s * h // share + weight) * element_bytes


def activation_bytes(model, layout, stage=0, element_bytes=2, compiled=True):
    """Return the activations of a stage at its peak: a dict of bytes.

    `layers` and `logits` count the micro-batches in flight, `workspace` is
    what the backward needs that begins then.  The peak is found by a walk
    through the schedule: interleaved chunks of unequal size hold most at
    another moment than the one with the most micro-batches.
    """
    held = chunks_of(model, layout, stage)
    p, m = layout.pp, layout.num_microbatches
    each = layer_bytes(model, layout, element_bytes)
    logits = head_bytes(model, layout, element_bytes, compiled)
    workspaces = [
        head_workspace(model, layout, element_bytes, compiled)
        if last
        else stage_workspace(model, layout, element_bytes)
        for _, _, last in held
    ]
    # Without a pipeline a micro-batch's backward follows its forward.
    walk = (
        held_at_backwards(layout.schedule, p, m, len(held), stage)
        if p > 1
        else [([1], 0)]
    )
    peak = {"layers": 0, "logits": 0, "workspace": 0}
    for alive, backward in walk:
        of_chunks = list(zip(alive, held))
        moment = {
            "layers": sum(
                n * layers * each for n, (layers, _, _) in of_chunks
            ),
            "logits": sum(
                n * logits for n, (_, _, last) in of_chunks if last
            ),
            "workspace": workspaces[backward],
        }
        if sum(moment.values()) > sum(peak.values()):
            peak = moment
    return peak


def rank_bytes(
    model,
    layout,
    stage=0,
    precision="bf16-weights",
    compiled=True,
    buckets=False,
):
    """Return the bytes of a rank at the peak of a step: a dict of parts.

    Parts: weights, optimizer, gradients, layers, logits, workspace, total.
    The peak lies where the first backward begins, with all activations and
    as yet no gradient, unless they are kept: over several micro-batches,
    or with `buckets` of data parallelism that hold them all the time.
    Where activations are few it lies behind the last backward.
    """
    states = state_bytes(model, layout, stage, precision)
    element_bytes = 4 if precision in ("float32", "tf32") else 2
    kept = activation_bytes(model, layout, stage, element_bytes, compiled)
    gradients = states["gradients"]
    live = buckets or layout.num_microbatches > 1
    begin = sum(kept.values()) + (gradients if live else 0)
    if begin < gradients:
        kept = {part: 0 for part in kept}
        live = True
    parts = {
        "weights": states["weights"],
        "optimizer": states["optimizer"],
        "gradients": gradients if live else 0,
    }
    parts.update(kept)
    parts["workspace"] += LIBRARY
    parts["total"] = sum(parts.values())
    return parts


def largest_stage(model, layout, **options):
    """Return the stage that needs most, and its `rank_bytes`."""
    stages = [
        rank_bytes(model, layout, stage, **options)
        for stage in range(layout.pp)
    ]
    worst = max(range(len(stages)), key=lambda i: stages[i]["total"])
    return worst, stages[worst]


def fits(model, layout, capacity, reserve=2 * 2**30, **options):
    """Return whether every rank stays within `capacity` bytes.

    `reserve` is for what no tensor of the step is: the driver's context,
    libraries' workspaces, the allocator's rounding.
    """
    _, parts = largest_stage(model, layout, **options)
    return parts["total"] + reserve <= capacity


def largest_micro_batch(model, layout, capacity, **options):
    """Return the largest micro-batch that fits; 0 if not even one does."""

    def works(size):
        return fits(
            model, layout.replace(micro_batch=size), capacity, **options
        )

    if not works(1):
        return 0
    low, high = 1, 2
    while works(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if works(middle):
            low = middle
        else:
            high = middle
    return low
