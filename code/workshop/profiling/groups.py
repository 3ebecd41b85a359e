"""Which part of a model a kernel belongs to, by its name.

Names are those of cuBLAS, cuDNN, CUTLASS, Triton and of torch's own
operations, on the GPU and on the CPU.  A kernel that fuses two things
counts where its name says the rarer one (a LayerNorm fused with a residual
sum is a LayerNorm).
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

MATRIX, ATTENTION, NORM = "matrix products", "attention", "LayerNorm"
ELEMENTWISE, OPTIMIZER = "elementwise", "optimizer"
COMMUNICATION, COPIES = "communication", "copies"
UNGROUPED = "ungrouped"
GROUPS = (
    MATRIX,
    ATTENTION,
    NORM,
    ELEMENTWISE,
    OPTIMIZER,
    COMMUNICATION,
    COPIES,
    UNGROUPED,
)
TOP = 12
NAME_LENGTH = 100

_MATRIX = (
    r"gemm|gemv|nvjet|cutlass|xmma|wgmma|splitk|cublas|triton_tem|matmul"
    r"|addmm|(^|[^a-z])(b|baddb)?mm(backward|$|[^a-z])"
    r"|aten::(linear|addmv|mv|dot)$"
)
# softmax_warp: torch's for rows of at most 1,024, as unfused attention has
# them; the loss's rows are the vocabulary.
_ATTENTION = (
    r"flash|fmha|sdpa|attention|compute_dot_do_o|convert_dq_to"
    r"|softmax_warp"
)
# Its backward does not say so: the gradients of its weight (γ) and bias (β).
_NORM = r"layer_?norm|GammaBeta|RowwiseMoments|cuComputeGradInput"
# Element by element, and what sums, joins, sorts, looks up or fills.
_ELEMENTWISE = (
    r"^triton_(poi|red|per)_|elementwise_kernel|reduce_kernel|CatArray"
    r"|softmax|radix_?sort|::(cub|thrust)::|compute_grad_weight"
    r"|sum_and_scatter|partial_segments|gather_kernel|krn_partial"
    r"|indexSelect|index_|embedding|triu_tril"
    r"|nll_loss|lerp|distribution_|^(aten|prims)::"
)

# The first that matches decides.
_NAMES = [
    (group, re.compile(pattern, re.IGNORECASE))
    for group, pattern in (
        (COMMUNICATION, r"^nccl|^gloo:|^Memcpy PtoP|symmetric_memory::"),
        (COPIES, r"^Mem(cpy|set)\b|aten::(copy_|_to_copy|contiguous)$"),
        (OPTIMIZER, r"multi_tensor_apply|adam|^Optimizer\.step"),
        (ATTENTION, _ATTENTION),
        (NORM, _NORM),
        (MATRIX, _MATRIX),
    )
]
_REST = re.compile(_ELEMENTWISE, re.IGNORECASE)


@dataclass(frozen=True)
class Share:
    """One kernel's or operation's own time, in µs, and its group."""

    name: str
    group: str
    us: float


def group_of(name: str) -> str | None:
    """Return which part of the model a name tells, one of `GROUPS`.

    None: no part in particular, such as a sum.
    """
    for group, pattern in _NAMES:
        if pattern.search(name):
            return group
    return None


def kernel_group(name: str) -> str:
    """Return a kernel's group; a name that nothing tells is `UNGROUPED`."""
    rest = ELEMENTWISE if _REST.search(name) else UNGROUPED
    return group_of(name) or rest


def group_times(shares: Iterable[Share]) -> dict[str, float]:
    """Return the ms of every group; what runs at once adds up."""
    times = dict.fromkeys(GROUPS, 0.0)
    for share in shares:
        times[share.group] += share.us / 1e3
    return times


def top_kernels(shares: Iterable[Share], most: int = TOP) -> list[dict]:
    """Return the kernels with the most time, longest first.

    Returns:
        `{"name", "group", "count", "ms"}` of each: its launches in the step
        and their time together.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for share in shares:
        times[share.name[:NAME_LENGTH], share.group].append(share.us)
    rows = [
        {
            "name": name,
            "group": group,
            "count": len(each),
            "ms": sum(each) / 1e3,
        }
        for (name, group), each in times.items()
    ]
    return sorted(rows, key=lambda row: (-row["ms"], row["name"]))[:most]
