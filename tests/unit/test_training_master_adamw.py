"""AdamW with masters computes what torch's AdamW does."""

import copy

import pytest
import torch
from torch import nn

from workshop.training import master_adamw
from workshop.training.master_adamw import MasterAdamW

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


def network():
    """Return two layers in float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).double()


def gradients(module, step):
    """Set pseudo-random gradients that depend on the step alone."""
    torch.manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter.double()).to(
            parameter.dtype
        )


def test_without_masters_it_is_torchs_adamw():
    """Twenty steps agree to the last few bits."""
    ours, theirs = network(), network()
    mine = MasterAdamW(ours.parameters(), **OPTIONS)
    reference = torch.optim.AdamW(theirs.parameters(), **OPTIONS)
    for step in range(20):
        for module, optimizer in ((ours, mine), (theirs, reference)):
            gradients(module, step)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_clip_coefficient_scales_the_gradients():
    """A coefficient of 0.3 is the same as gradients of 0.3 times."""
    ours, scaled = network(), network()
    mine = MasterAdamW(ours.parameters(), **OPTIONS)
    other = MasterAdamW(scaled.parameters(), **OPTIONS)
    for step in range(5):
        gradients(ours, step)
        mine.step(clip=torch.tensor(0.3))
        gradients(scaled, step)
        for parameter in scaled.parameters():
            # float32 as on the GPU, where the coefficient comes from
            parameter.grad *= torch.tensor(0.3).double()
        other.step()
    for a, b in zip(ours.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_masters_keep_what_sixteen_bits_lose():
    """Updates too small for bfloat16 add up in the master."""
    parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterAdamW([parameter], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    master = optimizer.state[parameter]["master"]
    assert master.dtype == torch.float32
    # with a constant gradient each step moves by the learning rate
    expected = torch.full((4,), 1 - 100 * 1e-4)
    torch.testing.assert_close(master, expected, rtol=1e-4, atol=0)
    assert torch.equal(parameter, master.bfloat16())
    assert parameter[0] != 1


def test_a_state_is_loaded_bit_for_bit():
    """Saving and loading in the middle changes nothing after it."""
    straight = network().bfloat16()
    resumed = copy.deepcopy(straight)
    mine = MasterAdamW(straight.parameters(), **OPTIONS)
    other = MasterAdamW(resumed.parameters(), **OPTIONS)
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(other.state_dict())
            weights = copy.deepcopy(resumed.state_dict())
            resumed = network().bfloat16()
            resumed.load_state_dict(weights)
            other = MasterAdamW(resumed.parameters(), **OPTIONS)
            other.load_state_dict(saved)
        for module, optimizer in ((straight, mine), (resumed, other)):
            gradients(module, step)
            optimizer.step()
    for a, b in zip(mine.state.values(), other.state.values(), strict=True):
        for name in a:
            assert a[name].dtype == b[name].dtype == torch.float32
            assert torch.equal(a[name], b[name])


def test_small_tensors_share_one_update(monkeypatch):
    """Together or each for itself, the bits are the same."""
    calls = []

    def counted(*arguments):
        calls.append(arguments[1].numel())
        plain(*arguments)

    plain = master_adamw._update
    monkeypatch.setattr(master_adamw, "_update", counted)
    ended = {}
    for limit in (0, 12, 2**16):
        monkeypatch.setattr(master_adamw, "SMALL", limit)
        module = network().bfloat16()
        optimizer = MasterAdamW(module.parameters(), **OPTIONS)
        calls.clear()
        for step in range(3):
            gradients(module, step)
            optimizer.step()
        ended[limit] = [*module.parameters(), *states(optimizer)]
        sizes = {0: [7, 35, 3, 21], 12: [10, 35, 21], 2**16: [66]}[limit]
        assert sorted(calls) == sorted(sizes * 3)
    for limit in (12, 2**16):
        for a, b in zip(ended[0], ended[limit], strict=True):
            assert torch.equal(a, b)


def states(optimizer):
    """Return every tensor that the optimizer remembers."""
    return [t for s in optimizer.state.values() for t in s.values()]


def test_a_small_tensor_without_gradient_stays():
    """Others of its group are updated all the same."""
    module = network().bfloat16()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = MasterAdamW(module.parameters(), **OPTIONS)
    gradients(module, 0)
    module[0].bias.grad = None
    optimizer.step()
    pairs = zip(module.named_parameters(), before, strict=True)
    unchanged = [name for (name, p), old in pairs if torch.equal(p, old)]
    assert unchanged == ["0.bias"]


def test_parameters_without_gradient_stay():
    """A frozen part keeps its weights and does not decay."""
    module = network()
    before = module[0].weight.detach().clone()
    optimizer = MasterAdamW(module.parameters(), **OPTIONS)
    gradients(module, 0)
    module[0].weight.grad = None
    optimizer.step()
    assert torch.equal(module[0].weight, before)


def test_a_closure_is_refused():
    """The loop computes gradients before the step, never inside."""
    optimizer = MasterAdamW(network().parameters())
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)
