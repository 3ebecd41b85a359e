"""How one model is spread over ranks: the one description that all share.

Pure Python that also runs inside the published page: no torch, and nothing
that MicroPython lacks. Training, estimates, benches and figures read the
same object, and `as_dict` is what travels as JSON.

A rank has a coordinate on each axis: tensor (tp), data (dp), pipeline (pp).
Tensor parallelism is innermost, so its ranks are neighbours and share a
node: it communicates inside every layer, forward and backward, and needs
NVLink. Data parallelism comes next: one all-reduce a step, and it can hide
under backward. Pipeline parallelism is outermost: it sends only activations
between neighbouring stages, which a network between nodes can carry
(Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on
GPU Clusters Using Megatron-LM", section 3.2). Expert parallelism (ep) adds
no ranks: it spreads the experts over ep neighbours of a data parallel group
(Rajbhandari et al. 2022, "DeepSpeed-MoE", section 4).
"""

from collections import namedtuple

from workshop.errors import UserError
from workshop.schedules import check_schedule

AXES = ("dp", "tp", "pp", "ep", "expert_dp")
SIZES = {
    "dp": "data parallel size",
    "tp": "tensor parallel size",
    "pp": "pipeline parallel size",
    "ep": "expert parallel size",
    "virtual_stages": "number of virtual stages",
    "micro_batch": "micro-batch",
    "num_microbatches": "num_microbatches",
}
SHORT = {"gpipe": "gpipe", "eager": "eager-1f1b"}
FIELDS = (*SIZES, "sequence_parallel", "schedule", "cut")

# Where a rank stands: its 0-based index on each axis.
Coordinate = namedtuple("Coordinate", ("pp", "dp", "tp"))


class Layout:
    """The sizes of a layout, and of the step that runs in it.

    Args:
        dp: data parallel size, the number of copies of the model.
        tp: tensor parallel size, the ranks that share each layer.
        pp: pipeline parallel size, the number of ranks of a pipeline.
        ep: expert parallel size, the ranks that share one set of experts;
            it divides `dp`.
        sequence_parallel: split activations by tokens between the tensor
            parallel regions.
        schedule: of a pipeline, one of `SCHEDULES`.
        virtual_stages: v, chunks of a rank; above 1 for interleaved alone.
        micro_batch: b, sequences that a rank computes at once.
        num_microbatches: m, micro-batches of a step.
        cut: the layers of each of the p v chunks, in the model's order;
            None balances them (`workshop.estimate.cut`).

    Raises:
        UserError: the sizes make no layout.
    """

    def __init__(
        self,
        dp=1,
        tp=1,
        pp=1,
        ep=1,
        sequence_parallel=False,
        schedule="1f1b",
        virtual_stages=1,
        micro_batch=1,
        num_microbatches=1,
        cut=None,
    ):
        self.dp, self.tp, self.pp, self.ep = dp, tp, pp, ep
        self.sequence_parallel = sequence_parallel
        self.schedule, self.virtual_stages = schedule, virtual_stages
        self.micro_batch = micro_batch
        self.num_microbatches = num_microbatches
        self.cut = None if cut is None else tuple(cut)
        for name in SIZES:
            size = getattr(self, name)
            if size < 1:
                raise UserError(
                    f"{name}={size} is too few, a {SIZES[name]} counts from "
                    f"1: give {name} 1 or more"
                )
        if dp % ep:
            raise UserError(
                f"dp={dp} is not divisible by ep={ep}, and experts are "
                "spread over data parallel ranks: choose an ep that divides "
                f"{dp}"
            )
        if sequence_parallel and tp == 1:
            raise UserError(
                "sequence parallelism splits what tensor parallelism leaves "
                "whole, and tp=1 is no tensor parallelism: give it 2 or more "
                "(--tensor-parallel-size)"
            )
        if pp == 1 and (schedule != "1f1b" or virtual_stages > 1 or cut):
            raise UserError(
                "a schedule, virtual stages or a cut order the work of a "
                "pipeline, and pp=1 is none: give it 2 or more "
                "(--pipeline-parallel-size)"
            )
        check_schedule(schedule, pp, num_microbatches, virtual_stages)
        if cut is not None and (len(cut) != self.chunks or min(cut) < 1):
            raise UserError(
                f"a cut into {list(cut)} layers does not give each of the "
                f"{self.chunks} chunks its layers: name one number, 1 or "
                "more, for each"
            )

    @classmethod
    def for_world(cls, world_size, tp=1, pp=1, **rest):
        """Return the layout whose data parallel size fills `world_size`.

        `rest` are other arguments of `Layout`.

        Raises:
            UserError: `world_size` is not divisible by `tp * pp`, or as
                the constructor does.
        """
        model = tp * pp
        if world_size < 1 or model < 1 or world_size % model:
            raise UserError(
                f"world size {world_size} is not divisible by tp={tp} × "
                f"pp={pp} = {model}: launch a multiple of {max(model, 1)} "
                "ranks, or choose sizes whose product divides the world size"
            )
        return cls(dp=world_size // model, tp=tp, pp=pp, **rest)

    @classmethod
    def from_name(cls, name, layers=None, **rest):
        """Return the layout that a name means: dp2, tp2-sp, pp2-cut12...

        dp, tp and pp with their sizes in any order, `sp` for sequence
        parallelism, `gpipe` or `eager` for another schedule than 1F1B, `v`
        with the chunks of a rank in an interleaved one, and `cut` with the
        layers of the first stage, of `layers` in all; the other stages
        share the rest. Hyphens may stand between them. `rest` are other
        arguments of `Layout`.

        Raises:
            UserError: the name means none.
        """
        sizes = _read(name)
        first = sizes.pop("cut", None)
        chunks = sizes.pop("v", 1)
        if chunks > 1:
            rest.update(schedule="interleaved", virtual_stages=chunks)
        rest.update({"schedule": SHORT[x] for x in SHORT if sizes.pop(x, 0)})
        rest["sequence_parallel"] = sizes.pop("sp", False)
        if first is not None:
            others = sizes.get("pp", 1) - 1
            if not others or layers is None or layers - first < others:
                raise UserError(
                    f"{name!r}: a cut leaves two stages or more some layers"
                )
            share, more = divmod(layers - first, others)
            rest["cut"] = [first]
            rest["cut"] += [share + (i < more) for i in range(others)]
        rest.update(sizes)
        return cls(**rest)

    @property
    def name(self):
        """Its sizes as `from_name` reads them: tp2-sp-dp4. No cut, no ep."""
        parts = [
            axis + str(getattr(self, axis))
            for axis in ("tp", "pp", "dp")
            if getattr(self, axis) > 1
        ]
        if self.sequence_parallel:
            parts.insert(1, "sp")
        if self.virtual_stages > 1:
            parts.append("v" + str(self.virtual_stages))
        parts += [x for x, full in SHORT.items() if full == self.schedule]
        return "-".join(parts) or "dp1"

    @property
    def model_size(self):
        """The ranks that hold one copy of the model."""
        return self.tp * self.pp

    @property
    def world_size(self):
        """The ranks of the whole layout."""
        return self.dp * self.model_size

    @property
    def chunks(self):
        """The runs of layers that the model is cut into, p v."""
        return self.pp * self.virtual_stages

    @property
    def sequences(self):
        """The sequences of a step over all ranks: the global batch."""
        return self.dp * self.micro_batch * self.num_microbatches

    def check_world(self, world_size):
        """Refuse a world of another size than the layout's.

        Raises:
            UserError: naming the sizes and what to change.
        """
        if world_size != self.world_size:
            raise UserError(
                f"dp={self.dp} × tp={self.tp} × pp={self.pp} needs "
                f"{self.world_size} ranks and {world_size} were launched: "
                f"launch {self.world_size}, or change the sizes"
            )

    def coordinate(self, rank):
        """Return the coordinate of a global rank."""
        rest, tp = divmod(rank, self.tp)
        pp, dp = divmod(rest, self.dp)
        return Coordinate(pp=pp, dp=dp, tp=tp)

    def rank(self, pp, dp, tp):
        """Return the global rank at a coordinate: `rank(*coordinate)`."""
        return (pp * self.dp + dp) * self.tp + tp

    def ranks(self, axis):
        """Return the groups of an axis, each a sorted list of global ranks.

        Args:
            axis: one of `AXES`. The ranks of a `dp`, `tp` or `pp` group
                differ in that index alone. An `ep` group holds every expert
                once; an `expert_dp` group holds the copies of one rank's
                experts.

        The groups of an axis are disjoint and cover the world.
        """
        groups = {}
        for rank in range(self.world_size):
            at = self.coordinate(rank)
            shared = {
                "dp": (at.pp, at.tp),
                "tp": (at.pp, at.dp),
                "pp": (at.dp, at.tp),
                "ep": (at.pp, at.tp, at.dp // self.ep),
                "expert_dp": (at.pp, at.tp, at.dp % self.ep),
            }[axis]
            groups.setdefault(shared, []).append(rank)
        return list(groups.values())

    def as_dict(self):
        """Return the arguments that make this layout, as JSON values."""
        values = {name: getattr(self, name) for name in FIELDS}
        values["cut"] = None if self.cut is None else list(self.cut)
        return values

    def replace(self, **changes):
        """Return the same layout with other values of some arguments."""
        values = self.as_dict()
        values.update(changes)
        return type(self)(**values)

    def __eq__(self, other):
        return isinstance(other, Layout) and self.as_dict() == other.as_dict()

    def __hash__(self):
        return hash(tuple(getattr(self, name) for name in FIELDS))

    def __repr__(self):
        plain = Layout()
        told = [
            f"{name}={getattr(self, name)!r}"
            for name in FIELDS
            if getattr(self, name) != getattr(plain, name)
        ]
        return f"Layout({', '.join(told)})"


def _read(name):
    """Return the sizes that a name has, by their letters."""
    sizes, text, bare = {}, name, ("sp", *SHORT)
    while text or not sizes:
        for key in ("dp", "tp", "pp", "cut", "v", *bare):
            if text.startswith(key) and key not in sizes:
                break
        else:
            raise UserError(
                "a layout is named by dp, tp, pp and their sizes, sp, v, cut "
                f"and a schedule, as in tp2-sp or pp2-eager: {name!r} is not"
            )
        text = text[len(key) :]
        digits = len(text) - len(text.lstrip("0123456789"))
        if (key in bare) == (digits > 0):
            raise UserError(
                f"dp, tp, pp, v and cut need a number, others none: {name!r}"
            )
        sizes[key] = int(text[:digits]) if digits else True
        text = text[digits:]
        if text.startswith("-") and len(text) > 1:
            text = text[1:]
    return sizes
