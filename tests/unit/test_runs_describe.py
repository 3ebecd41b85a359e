"""slurm/experiments: what it holds, and what is refused."""

import pytest

from workshop.errors import UserError
from workshop.records import experiments as describe

GOOD = """
[[experiment]]
name = "lab1/toy-2gpu"
title = "A toy"
chapter = "lab1/01_cluster"
module = "workshop.lab1.toy"
args = ["--steps", "3"]
nodes = 2
gpus_per_node = 1
timeout = "4m"
expected = "90s"
small = { args = ["--steps", "1"], nodes = 1, gpus_per_node = 2 }
"""
SIZE = describe.Size(args=["--steps", "3"], nodes=2, gpus_per_node=1)
SMALL = describe.Size(args=["--steps", "1"], nodes=1, gpus_per_node=2)


def read(tmp_path, text):
    (tmp_path / "toys.toml").write_text(text)
    return describe.read(tmp_path)


def test_fields(tmp_path):
    toy = read(tmp_path, GOOD)["lab1/toy-2gpu"]
    assert (toy.timeout, toy.expected) == (240, 90)
    assert toy.needs_gpus == toy.gpus == 2
    assert toy.size() == SIZE
    assert toy.size(small=True) == SMALL
    assert not toy.planned


def test_the_workshop_describes_its_runs():
    experiments = describe.read()
    assert "lab1/gpt-1.3b-2gpu-overlapped" in experiments
    planned = [each for each in experiments.values() if each.planned]
    assert planned
    assert all(each.prediction and each.why for each in planned)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title", "titel", "did you mean title"),
        ("[[experiment]]", "[experimant]", "unknown table"),
        ("lab1/toy-2gpu", "Toy", "called 'Toy'"),
        ("lab1/toy-2gpu", "lab1/toy.failed", "called 'lab1/toy.failed'"),
        ("workshop.lab1.toy", "workshop/toy.py", "dotted Python name"),
        ("nodes = 2", "nodes = 0", "whole number from 1"),
        ("nodes = 2", 'nodes = "2"', "whole number from 1"),
        ('"4m"', '"4 minutes"', "no duration"),
        ('["--steps", "3"]', '["--steps", 3]', "list of strings"),
        ("gpus_per_node = 1\nt", "gpus_per_node = 0\nt", "one rank for each"),
        ("nodes = 1,", "node = 1,", "a table with args"),
        ("timeout", 'launch = "mpirun"\ntimeout', "one of torchrun"),
        ("timeout", 'status = "later"\ntimeout', "active or planned"),
        ("timeout", 'status = "planned"\ntimeout', "a `prediction`"),
        ('chapter = "lab1/01_cluster"', "", "lacks 'chapter'"),
        ('title = "A toy"', "title = A toy", "not TOML"),
    ],
)
def test_bad_description_is_one_sentence(tmp_path, old, new, says):
    assert old in GOOD
    with pytest.raises(UserError) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_stands_once(tmp_path):
    with pytest.raises(
        UserError, match="lab1/toy-2gpu, which is described twice"
    ):
        read(tmp_path, GOOD + GOOD)


def test_no_record_lies_inside_another(tmp_path):
    inner = GOOD.replace("lab1/toy-2gpu", "lab1/toy-2gpu/again")
    with pytest.raises(UserError, match="inside that of lab1/toy-2gpu: "):
        read(tmp_path, inner + GOOD)


def test_unknown_name_lists_near_misses(tmp_path):
    with pytest.raises(UserError, match="did you mean lab1/toy-2gpu"):
        describe.select(["lab1/toy-2gpus"], read(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("experiment = 3", "[[experiment]]"),
        ("experiment = [1, [2]]", "called 1"),
        (f"a = {'[' * 5000}", "not TOML"),
        (f"a = {'9' * 5000}", "not TOML"),
        (GOOD.replace("nodes = 2", f"nodes = 0x{'f' * 9000}"), "too long"),
        (GOOD.replace('"A toy"', "[]"), "a text in quotes"),
        (GOOD.replace('"4m"', "4"), "no duration"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, text, says):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_folder_without_descriptions_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no description of a run"):
        describe.read(tmp_path)
