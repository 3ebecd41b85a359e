"""slurm/experiments.toml: what it holds, and what is refused."""

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


def read(tmp_path, text):
    file = tmp_path / "experiments.toml"
    file.write_text(text)
    return describe.read(file)


def test_fields(tmp_path):
    toy = read(tmp_path, GOOD)["lab1/toy-2gpu"]
    assert (toy.timeout, toy.expected) == (240, 90)
    assert toy.needs_gpus == toy.gpus == 2
    assert toy.size() == describe.Size(("--steps", "3"), 2, 1)
    assert toy.size(small=True) == describe.Size(("--steps", "1"), 1, 2)
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
    with pytest.raises(UserError, match="lab1/toy-2gpu twice"):
        read(tmp_path, GOOD + GOOD)


def test_unknown_name_lists_near_misses(tmp_path):
    with pytest.raises(UserError, match="did you mean lab1/toy-2gpu"):
        describe.select(["lab1/toy-2gpus"], read(tmp_path, GOOD))
