"""The pretraining gives the same losses however it is spread out."""

import re

import pytest
import torch
from pretrain_runs import pretrain, refused, values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("pretrain"))


@pytest.fixture(scope="module")
def overlapped(pool2, folder):
    """The global batch of eight as two ranks of four."""
    return pool2.run(pretrain, folder, "--eval-every", "2")[0]


@pytest.mark.parametrize(
    "argv",
    [
        ["--data-parallel", "naive"],
        ["--data-parallel", "ddp"],
        ["--bucket-mib", "0.01"],
        ["--tensor-parallel-size", "2", "--num-microbatches", "2"],
        [
            *("--tensor-parallel-size", "2", "--sequence-parallel"),
            *("--micro-batch", "8"),
        ],
        ["--pipeline-parallel-size", "2", "--num-microbatches", "2"],
        [
            *("--pipeline-parallel-size", "2", "--schedule", "gpipe"),
            *("--micro-batch", "2", "--num-microbatches", "4"),
        ],
        ["--micro-batch", "2", "--accumulation", "2"],
        [
            "--micro-batch",
            "1",
            "--accumulation",
            "4",
            "--data-parallel",
            "ddp",
        ],
    ],
)
def test_two_ranks_in_every_way(pool2, folder, overlapped, argv):
    events = pool2.run(pretrain, folder, *argv, "--eval-every", "2")[0]
    for ours, theirs in zip(values(events), values(overlapped), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert held_out(events) == pytest.approx(held_out(overlapped), rel=1e-4)
    assert events[0]["tokens_per_step"] == overlapped[0]["tokens_per_step"]


def held_out(events):
    return [e["value"] for e in events if e.get("name") == "held_out_loss"]


def test_the_first_line_describes_the_run_and_the_rest_is_complete(
    overlapped,
):
    meta, *rest = overlapped
    assert meta["event"] == "meta" and meta["world_size"] == 2
    assert len(meta["corpus_sha256"]) == len(meta["tokenizer_sha256"]) == 64
    assert meta["tokens_per_step"] == 2 * 4 * 64
    assert meta["device"] == "cpu" and meta["peak_flops"] is None
    steps = [e for e in rest if e["event"] == "step"]
    assert [e["step"] for e in steps] == [1, 2, 3, 4]
    assert all(e["mfu"] is None for e in steps)
    labels = {
        name: [e["labels"] for e in rest if e.get("name") == name]
        for name in ("held_out_loss", "memory_per_rank")
    }
    assert labels["held_out_loss"] == [{"step": 2}, {"step": 4}]
    assert labels["memory_per_rank"] == [{"rank": 0}, {"rank": 1}]
    assert steps[-1]["loss"] < steps[0]["loss"]


def agreed(rank, world):
    """Let rank 1 alone meet an error and return what each rank raises."""
    from workshop.errors import UserError
    from workshop.job.launch import AgreedError, together

    def action():
        if rank == 1:
            raise UserError("rank 1 has no room")
        return rank

    try:
        return together(action)
    except AgreedError as error:
        return str(error), together(lambda: rank)


def test_an_error_of_one_rank_is_raised_on_all(pool2):
    assert pool2.run(agreed) == [
        ("rank 1 has no room", 0),
        ("rank 1 has no room", 1),
    ]


@pytest.mark.parametrize("weights", [[], ["--bf16-weights"]])
def test_a_resumed_run_equals_one_that_never_stopped(
    pool2, tmp_path, folder, weights
):
    """In one process: the state is complete, masters and moments too."""
    whole = pool2.run(pretrain, folder, *weights)[0]
    argv = [*weights, "--checkpoint", str(tmp_path), "--save-every", "3"]
    pool2.run(pretrain, folder, *argv)
    (tmp_path / "step-00000004").rename(tmp_path / "old")
    resumed = pool2.run(pretrain, folder, *argv, "--resume")[0]
    assert values(resumed) == values(whole)


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--corpus", "/no/such/text"], "/no/such/text does not exist"),
        (["--vocabulary", "2000"], "2000 entries and the model tiny"),
        (["--corpus-mib", "0.0001"], "fewer than one sequence of 64"),
        (["--trace", "--warmup-steps", "2"], "--steps is 4: give 7 or more"),
        (["--profile", "--warmup-steps", "2"], "--steps is 4: give 7 or mo"),
        (["--metrics", "/dev/null/m.jsonl"], "/dev/null/m.jsonl cannot be"),
        (["--tensor-parallel-size", "4"], "world size 2 is not divisible by"),
        (["--pipeline-parallel-size", "3"], "world size 2 is not divisible"),
    ],
)
def test_bad_input_is_refused_by_all_ranks(pool2, folder, argv, says):
    messages = pool2.run(refused, folder, *argv)
    assert messages[0] == messages[1] and says in messages[0]


def test_another_global_batch_resumes_after_the_sequences_seen(
    pool2, tmp_path, folder
):
    """As steps of that batch from the same sequence on would go on."""
    small, large = ["--micro-batch", "4"], ["--micro-batch", "8"]
    argv = ["--checkpoint", str(tmp_path), "--resume"]
    pool2.run(pretrain, folder, *argv, *large, "--steps", "2")
    more = pool2.run(pretrain, folder, *argv, *small, "--steps", "5")[0]
    assert more[0]["tokens_per_step"] == 2 * 4 * 64
    assert more[0]["resumed"][0]["tokens_per_step"] == 2 * 8 * 64
    state = torch.load(tmp_path / "step-00000005" / "state.pt")
    assert state["sequences"] == 2 * 16 + 3 * 8


@pytest.mark.parametrize(
    "changed, says",
    [
        (["--seed", "2"], "seed is 1 there, 2 here"),
        (["--corpus-mib", "0.1"], "corpus_sha256 is"),
    ],
)
def test_other_batches_are_refused_at_resume(
    pool2, tmp_path, folder, changed, says
):
    argv = ["--checkpoint", str(tmp_path), "--resume"]
    pool2.run(pretrain, folder, *argv, "--steps", "1")
    messages = pool2.run(refused, folder, *argv, *changed)
    assert messages[0] == messages[1]
    assert re.search(says, messages[0])


def test_a_diverged_training_ends_in_one_sentence(pool2, folder):
    says = pool2.run(diverged, folder, "--lr", "1e30", "--warmup", "0")
    assert "has diverged, its" in says[0] and says[0] == says[1]
    assert "\n" not in says[0]


def diverged(rank, world, folder, *argv):
    from workshop.errors import UserError

    with pytest.raises(UserError) as raised:
        pretrain(rank, world, folder, *argv)
    return str(raised.value)


def test_a_checkpoint_that_does_not_fit_is_refused_by_all_ranks(
    pool2, tmp_path, folder
):
    argv = ["--checkpoint", str(tmp_path)]
    pool2.run(pretrain, folder, *argv)
    messages = pool2.run(refused, folder, *argv, "--steps", "2")
    assert messages[0] == messages[1]
    assert "has the checkpoint step-00000004 of another run" in messages[0]
    other = [*argv, "--resume", "--vocabulary", "300"]
    messages = pool2.run(refused, folder, *other)
    assert messages[0] == messages[1]
    assert "another model (tokenizer_sha256 is" in messages[0]
    state = tmp_path / "step-00000004" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    messages = pool2.run(refused, folder, *argv, "--resume")
    assert messages[0] == messages[1]
    assert "state.pt has 1000 of" in messages[0]
