"""What the model of a layout predicts, as part of an expression.

    predicted("pp2", "tokens_per_s", micro_batch=4, num_microbatches=16)
    predicted("tp2dp2", "step_time_s", dp="lab1/links-2nodes", users=2)

The layout is named as in `Layout.from_name`. It starts
from records: the step of GPT 1.3B on one GPU, and for each axis the
all-reduce of a link, that inside a node unless `dp`, `tp` or `pp` name
another one. `users` is how many pairs of GPUs share a link that is named so.
`ranks` names a run of `workshop.lab1.one_rank`: then what each rank of the
layout computes was measured, and only its messages are predicted.
"""

from collections.abc import Callable

from workshop.errors import UserError
from workshop.layout import Layout
from workshop.records.load import Run

ALONE, INSIDE = "lab1/compare-data-parallel", "lab1/links-1node"
AXES = ("dp", "tp", "pp")
Value = str | int | float | bool


def predicted(
    loader: Callable[[str], Run], name: Value, part: Value, **options: Value
) -> float:
    """Return one number of a predicted step.

    Args:
        loader: finds records.
        name: of the layout.
        part: `tokens_per_s`, `step_time_s`, or a part of the step in
            seconds: compute, imbalance, bubble, tp, pp, dp, optimizer.
        options: links by axis, `users`, `ranks`, and arguments of
            `workshop.layout.Layout` (with `ranks` only
            `micro_batch` and `num_microbatches`).

    Raises:
        UserError: there is no such layout, option or part.
    """
    # Both load torch, which most expressions do without.
    from workshop.records.predict import layouts, ranks

    inside = layouts.curve(loader(INSIDE))
    users = options.pop("users", 1)
    links = dict.fromkeys(AXES, inside)
    for axis in set(AXES) & set(options):
        other = layouts.curve(loader(str(options.pop(axis))))
        links[axis] = layouts.shared(other, users)
    recorded = options.pop("ranks", None)
    try:
        if recorded:
            size = options.pop("micro_batch", 1)
            parts = ranks.predict(
                loader(str(recorded)), str(name), size, links, **options
            )
        else:
            layout = Layout.from_name(str(name), **options)
            parts = layouts.predict(
                loader(ALONE), loader(INSIDE), layout, links
            )
    except (TypeError, ValueError) as error:
        raise UserError(f"predicted({name!r}, ...): {error}.") from None
    parts["step_time_s"] = parts["total"]
    if part not in parts:
        raise UserError(
            f"a predicted step has no {part!r}: use one of "
            f"{', '.join(sorted(parts))}."
        )
    return parts[str(part)]
