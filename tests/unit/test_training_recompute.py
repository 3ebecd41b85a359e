"""What recomputation keeps, and that backward sees the forward's numbers."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workshop.errors import UserError
from workshop.models.gpt import GPT, GPTConfig
from workshop.training import recompute as module
from workshop.training.recompute import recompute

CONFIG = GPTConfig(
    3, 16, 4, 8, 37, dropout=0.2, attention="core", attention_dropout=0.2
)
BATCH = 2
WAYS = [("full", 1), ("full", 2), ("selective", 1)]


def model(config: GPTConfig = CONFIG) -> GPT:
    torch.manual_seed(1)
    return GPT(config).double()


def tokens(config: GPTConfig = CONFIG) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    text = torch.randint(config.vocabulary, (BATCH, config.sequence + 1))
    return text[:, :-1], text[:, 1:]


def gradients(gpt: GPT) -> list[Tensor]:
    """Return the gradients of two passes, and draw what comes after them."""
    inputs = tokens()
    torch.manual_seed(3)
    for _ in range(2):
        gpt(*inputs).backward()
    after = torch.rand(())
    return [*(p.grad for p in gpt.parameters() if p.grad is not None), after]


def equal(mine: list[Tensor], due: list[Tensor]) -> bool:
    pairs = zip(mine, due, strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize(("way", "every"), WAYS)
def test_every_bit_of_the_gradients_is_the_same(way, every, backend) -> None:
    """With dropout: the second run drops what the first did."""
    plain, again = model(), model()
    recompute(again, way, every)
    if backend:
        for gpt in (plain, again):
            for block in gpt.blocks:
                block.compile(fullgraph=True, dynamic=False, backend=backend)
    due = gradients(plain)
    torch.compiler.reset()
    # All blocks share their graphs: with and without gradients, and those
    # that do not recompute.
    graphs = 1 if way == "selective" else 2
    with torch._dynamo.config.patch(recompile_limit=graphs):
        assert equal(gradients(again), due)


def test_of_every_two_blocks_the_first_runs_again() -> None:
    gpt, runs = model(), []
    recompute(gpt, "full", 2)
    for number, block in gpt.blocks.named_children():
        block.register_forward_hook(lambda *_, n=number: runs.append(n))
    gpt(*tokens()).backward()
    assert runs == ["0", "1", "2", "2", "0"]


def test_ours_is_torchs() -> None:
    ours, theirs = model(), model()
    recompute(ours, "full")
    theirs.run = partial(checkpoint, use_reentrant=False)
    assert equal(gradients(ours), gradients(theirs))


def test_other_random_numbers_in_the_second_run_are_seen(monkeypatch) -> None:
    """The planted bug: a mask of dropout is drawn anew in backward."""
    monkeypatch.setattr(module, "_set_random_state", lambda *state: None)
    plain, again = model(), model()
    recompute(again, "full")
    assert not equal(gradients(again), gradients(plain))


def test_a_frozen_input_leaves_the_parameters_their_gradients() -> None:
    plain, again = model(), model()
    for gpt in (plain, again):
        gpt.embedding.requires_grad_(False)
    recompute(again, "full")
    mine = gradients(again)
    assert len(mine) > 30 and equal(mine, gradients(plain))


def test_a_block_without_anything_to_learn_is_passed_over() -> None:
    plain, again = model(), model()
    for gpt in (plain, again):
        gpt.embedding.requires_grad_(False)
        gpt.blocks[0].requires_grad_(False)
    recompute(again, "full")
    assert equal(gradients(again), gradients(plain))


def test_autocast_is_that_of_the_first_run() -> None:
    def under(gpt: GPT) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = gpt(*tokens())
        loss.backward()
        return [p.grad for p in gpt.parameters()]

    quiet = replace(CONFIG, dropout=0.0, attention_dropout=0.0)
    plain, again = model(quiet).float(), model(quiet).float()
    recompute(again, "full")
    assert equal(under(again), under(plain))


def kept(gpt: GPT) -> int:
    """Return the elements kept for backward that are no parameters."""
    weights = {p.untyped_storage().data_ptr() for p in gpt.parameters()}
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            found[place] = tensor
        return tensor

    inputs = tokens(gpt.config)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = gpt(*inputs)
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for t in found.values())


def test_full_keeps_the_input_of_each_block_alone() -> None:
    few, more = (replace(CONFIG, layers=n) for n in (1, 4))

    def of(config: GPTConfig) -> int:
        gpt = model(config)
        recompute(gpt, "full")
        return kept(gpt)

    one_input = 8 * BATCH * CONFIG.sequence * CONFIG.hidden
    assert of(more) - of(few) == 3 * one_input


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_selective_frees_what_grows_with_the_square(dropout: float) -> None:
    """Korthikanti et al. 2022, section 4.1: 5as²b bytes, 2 without dropout.

    In units of as²b elements: the softmax's output, with dropout the masked
    one and the mask, which is a byte in the paper and 8 here in float64.
    The scores before the softmax are not kept, their mask of the future is.
    """
    config = replace(CONFIG, attention_dropout=dropout, sequence=32)
    plain, again = model(config), model(config)
    recompute(again, "selective")
    square = BATCH * config.heads * config.sequence**2
    freed = kept(plain) - kept(again)
    due = 8 * square * (3 if dropout else 1) * config.layers
    assert due <= freed <= 1.15 * due


def test_with_flash_attention_there_is_nothing_to_select() -> None:
    with pytest.raises(UserError, match="choose --attention core"):
        recompute(model(replace(CONFIG, attention="flash")), "selective")


def test_evaluation_keeps_nothing_and_recomputes_nothing() -> None:
    gpt = model()
    recompute(gpt, "full")
    runs = []
    for block in gpt.blocks:
        block.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        gpt.eval()(*tokens())
    assert len(runs) == CONFIG.layers


def test_core_and_flash_are_the_same_attention() -> None:
    quiet = replace(CONFIG, dropout=0.0, attention_dropout=0.0)
    losses = [
        model(replace(quiet, attention=name))(*tokens())
        for name in ("core", "flash")
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="none of flash, core: choose one"):
        replace(CONFIG, attention="sparse")
