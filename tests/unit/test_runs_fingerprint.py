"""Fingerprints: what makes a run stale, and what does not."""

import ast
import textwrap

import pytest
import runs_folder

from workshop.records import experiments as describe
from workshop.records import fingerprint

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
    found = []
    for text in (
        "#!/bin/bash\n# Prose.\n#SBATCH --nodes=2\n\nsrun x\n",
        "#!/bin/bash\n# Other.\n  # More.\n#SBATCH --nodes=2\nsrun x\n",
        "#!/bin/bash\n# Prose.\n#SBATCH --nodes=3\n\nsrun x\n",
    ):
        script.write_text(text)
        found.append(fingerprint.script_hash(script))
    assert found[0] == found[1] != found[2]


def test_path_follows_imports_at_any_depth(tmp_path):
    files = {
        "code/workshop/__init__.py": "x = 1",
        "code/workshop/errors.py": "x = 1",
        "code/workshop/deep/__init__.py": "from . import a",
        "code/workshop/deep/a.py": "from .b import c",
        "code/workshop/deep/b.py": "import os, torch\nc = 1",
        "code/workshop/lazy.py": "import workshop.errors",
        "code/workshop/unused.py": "x = 1",
        "code/workshop/records/check.py": "x = 1",
        "code/workshop/lab/__init__.py": "",
        "code/workshop/lab/run.py": """
            from workshop import errors
            from workshop.deep.a import c
            from workshop.records import check
            def f():
                import workshop.lazy
        """,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    toy = describe.Experiment(
        "lab1/toy", "", "", 1, 1, module="workshop.lab.run"
    )
    found = fingerprint.measured_path(toy, tmp_path)
    inside = [p.relative_to(tmp_path / "code/workshop") for p in found]
    assert [p.as_posix() for p in inside] == [
        "deep/__init__.py",
        "deep/a.py",
        "deep/b.py",
        "lab/__init__.py",
        "lab/run.py",
        "lazy.py",
    ]


def test_tests_of_a_pytest_launch_count(tmp_path):
    (tmp_path / "tests" / "gpu").mkdir(parents=True)
    (tmp_path / "tests" / "gpu" / "test_a.py").write_text("x = 1\n")
    toy = describe.Experiment(
        "tests/gpu", "", "", 1, 1, launch="pytest", args=("tests/gpu", "-q")
    )
    found = fingerprint.hashes(toy, tmp_path)
    assert "tests/gpu/test_a.py" in found


def test_description_and_listed_files_count(tmp_path):
    root = runs_folder.make_workshop(tmp_path)
    file = root / fingerprint.DEFINITION
    old = fingerprint.hashes(describe.read(file)["lab1/toy"], root)
    runs_folder.describe_toy(root, kind="fails", repeats=2)
    (root / "code" / "toy_data.txt").write_text("other data\n")
    new = fingerprint.hashes(describe.read(file)["lab1/toy"], root)
    assert fingerprint.changed(old, new) == [
        "code/toy_data.txt",
        "slurm/experiments.toml (lab1/toy)",
    ]
