"""Fingerprints: what makes a run stale, and what does not."""

import ast
import os
import subprocess
import sys

import pytest
import runs_folder

from workshop import loaded, paths
from workshop.errors import UserError
from workshop.records import check, fingerprint, job
from workshop.records import experiments as describe

SNIPPET = '''
"""Prose."""
from __future__ import annotations
import os as system  # why


class Shape(tuple):
    """Prose."""

    sides: int = 3

    async def area(self, *, unit="m", **rest) -> float | None:
        """Prose."""
        return None if unit else 1.5e-3 * len(f"{unit!r:>{self.sides}} {1}")


def walk(nodes, /, depth=...):
    match nodes:
        case [first, *others] if first is not None:
            yield from walk(others, depth)
        case {"name": str(name), **other} | Shape(sides=name as other):
            with open(name, "rb") as file, file: pass
        case None: ...
    try:
        {**{}, "a": [x for x in nodes if x]}[0:1, ::2]
    except* ValueError:
        lambda *a, b=1: (yield)
    x: int
    return b"bytes" "" if False else not -depth
'''.replace('b"bytes" ""', 'b"bytes" b""')
# Computed once; it is the same under Python 3.11 and 3.12.
EXPECTED = "3ac1cc3fa8d2ec414b2e7bb89eb86e697f06de9203e327229f0c9f55ccd67514"


def hash_of(tmp_path, text):
    file = tmp_path / "source.py"
    file.write_text(text)
    return fingerprint.tree_hash(file)


def test_hash_is_the_same_under_every_python(tmp_path):
    assert hash_of(tmp_path, SNIPPET) == EXPECTED


def test_texts_of_an_f_string_count_however_they_are_split():
    parts = [ast.Constant("a"), ast.Constant("b")]
    joined = ast.JoinedStr([ast.Constant("ab")])
    split = fingerprint.canonical(ast.JoinedStr(parts))
    assert split == fingerprint.canonical(joined)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("def f(x):\n    '''Other.'''\n    return x + 1  # more\n", True),
        ("def f(x):\n\n    return (x +\n        1)\n", True),
        ("def f(x):\n    return x + 2\n", False),
        ("def f(y):\n    return y + 1\n", False),
        ("def f(x, y=None):\n    return x + 1\n", False),
        ("def f(x):\n    'a'\n    'b'\n    return x + 1\n", False),
    ],
)
def test_only_prose_does_not_count(tmp_path, other, same):
    first = 'def f(x):\n    """Some."""\n    return x + 1\n'
    equal = hash_of(tmp_path, first) == hash_of(tmp_path, other)
    assert equal is same


def test_comments_of_a_script_do_not_count_but_its_options_do(tmp_path):
    script = tmp_path / "job.sbatch"
    hashes = []
    for text in (
        "#!/bin/bash\n# Prose.\n#SBATCH --nodes=2\n\nsrun x\n",
        "#!/bin/bash\n# Other.\n  # More.\n#SBATCH --nodes=2\nsrun x\n",
        "#!/bin/bash\n# Prose.\n#SBATCH --nodes=3\n\nsrun x\n",
    ):
        script.write_text(text)
        hashes.append(fingerprint.script_hash(script))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A workshop of two runs, one of which uses a feature of the toy."""
    root = runs_folder.make_workshop(tmp_path / "w")
    runs_folder.enter(monkeypatch, root)
    more = runs_folder.TOML.format(
        name="lab1/featured", kind='good", "feature',
        repeats=1, timeout="30s", needs_gpus=0,
    )  # fmt: skip
    runs_folder.describe_toy(root, repeats=1, more=more)
    feature = root / "code" / "workshop" / "feature" / "of_toy.py"
    feature.parent.mkdir(parents=True)
    feature.write_text("VALUE = 1\n")
    toy = root / "code" / "toy.py"
    toy.write_text(
        toy.read_text()
        + "\nif 'feature' in sys.argv:\n"
        + "    sys.path.insert(0, os.path.dirname(__file__) + '/workshop')\n"
        + "    import feature.of_toy\n"
    )
    for experiment in describe.read().values():
        job.run(experiment, False, paths.records())
    return root


def states(root) -> list[str]:
    findings = check.examine_all(describe.read(), paths.records(), root)
    assert [each.name for each in findings] == ["lab1/toy", "lab1/featured"]
    return [each.state for each in findings]


def test_a_feature_stales_the_runs_that_used_it(workshop):
    assert states(workshop) == ["fresh", "fresh"]
    (workshop / "code" / "another.py").write_text("VALUE = 2\n")
    assert states(workshop) == ["fresh", "fresh"]
    feature = workshop / "code" / "workshop" / "feature" / "of_toy.py"
    feature.write_text('"""Prose."""\nVALUE = 1  # more\n')
    assert states(workshop) == ["fresh", "fresh"]
    feature.write_text("VALUE = 2\n")
    assert states(workshop) == ["fresh", "stale"]
    feature.unlink()
    assert states(workshop) == ["fresh", "stale"]
    helper = workshop / "code" / "helper_of_toy.py"
    helper.write_text(helper.read_text().replace("100.0", "200.0"))
    assert states(workshop) == ["stale", "stale"]


def test_a_source_that_cannot_be_read_is_one_sentence(workshop):
    for broken in (b"def (", b"x = '\xff'\n", b"x = 1\0"):
        (workshop / "code" / "helper_of_toy.py").write_bytes(broken)
        with pytest.raises(UserError, match="helper_of_toy.py cannot be"):
            fingerprint.hashes({"code/helper_of_toy.py"}, workshop)


def loads(tmp_path, *command) -> set[str]:
    """Return what a process of this checkout notes that it loads."""
    noted = tmp_path / "noted"
    noted.mkdir()
    env = {
        **os.environ,
        "WORKSHOP_ROOT": str(runs_folder.HERE),
        "WORKSHOP_CACHE": str(tmp_path / "cache"),
        "WORKSHOP_LOADED": str(noted),
        "PYTHONPATH": str(runs_folder.HERE / "code"),
    }
    subprocess.run([sys.executable, *command], env=env, check=False)
    return loaded.read(noted)


def test_a_process_that_is_killed_has_noted_what_it_loaded(tmp_path):
    program = "import os, workshop.estimate, workshop.groups; "
    program += "os.kill(os.getpid(), 9)"
    assert {
        "code/workshop/estimate/__init__.py",
        "code/workshop/groups.py",
        "code/workshop/layout.py",
        "code/workshop/schedules.py",
    } <= loads(tmp_path, "-c", program)


def test_a_plain_run_loads_what_it_uses_and_nothing_else(tmp_path):
    """No figure, no profile, no estimate of memory, no other strategy."""
    argv = ("--steps", "1", "--corpus-mib", "0.1")
    module = "workshop.lab1.pretrain_gpt"
    files = fingerprint.measured(loads(tmp_path, "-m", module, *argv))
    inside = {name.removeprefix("code/workshop/") for name in files}
    assert {
        "lab1/pretrain_gpt.py",
        "training/layout_trainer.py",
        "job/metrics.py",
        "data/batches.py",
        "models/gpt.py",
    } <= inside
    folders = {name.rpartition("/")[0] for name in inside}
    assert folders <= {
        "", "data", "estimate", "job", "lab1", "models", "parallel",
        "parallel/data", "training",
    }  # fmt: skip
    of = {n for n in inside if n.startswith(("estimate", "parallel"))}
    assert of == {
        "estimate/__init__.py", "estimate/flops.py", "estimate/hardware.py",
        "parallel/__init__.py",
        "parallel/data/__init__.py",
        "parallel/data/ways.py", "parallel/placement.py",
        "parallel/random_streams.py",
    }  # fmt: skip


def test_a_library_inside_the_checkout_is_no_source():
    """As where a host without network keeps its wheels."""
    loaded = {"code/toy.py", ".site/library/core.py", "code/.x/y.py"}
    assert fingerprint.measured(loaded) == {"code/toy.py"}
    old = {"code/toy.py": "1", ".site/library/core.py": "2"}
    assert fingerprint.changed(old, {"code/toy.py": "1"}) == []
    assert fingerprint.changed(old, {}) == ["code/toy.py"]


def test_tests_of_a_pytest_launch_count(tmp_path):
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    (tmp_path / "tests" / "gpu" / "test_a.py").write_text("x = 1\n")
    toy = describe.Experiment(
        name="tests/gpu",
        title="",
        chapter="",
        nodes=1,
        gpus_per_node=1,
        launch="pytest",
        args=("tests/gpu", "-q"),
    )
    assert "tests/gpu/test_a.py" in fingerprint.listed(toy, tmp_path)


def test_description_and_listed_files_count(workshop):
    (workshop / "code" / "toy_data.txt").write_text("other data\n")
    text = (workshop / runs_folder.DESCRIBED).read_text()
    text = text.replace('"feature"]', '"feature", "more"]')
    (workshop / runs_folder.DESCRIBED).write_text(text)
    findings = check.examine_all(describe.read(), paths.records(), workshop)
    assert [each.changed for each in findings] == [
        ("code/toy_data.txt",),
        ("code/toy_data.txt", "slurm/experiments (lab1/featured)"),
    ]
