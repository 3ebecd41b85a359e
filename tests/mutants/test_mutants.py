"""The tests of the tests, module by module: bugs of many kinds are caught.

Each bug of `mutants.toml` is planted in a copy of code/, against which the
tests of its module run, as far as `make test` contains them, in a fork of a
process that has torch. A table of what caught them ends the session.
"""

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from fork_servers import fork_server

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())
QUICK = "not long and not gpu"
LIMIT_S = 300
SHARE = 0.95
"""Of the bugs that must be caught."""

CAUGHT: dict[str, bool] = {}


def run_tests(code: str, tests: list[str], log: str) -> None:
    """Run tests against a copy of code/, in this fork; exit as pytest."""
    with open(log, "w") as text:
        os.dup2(text.fileno(), 1)
        os.dup2(text.fileno(), 2)
    os.chdir(ROOT)
    os.environ |= {"PYTHONPATH": code, "WORKSHOP_ROOT": str(ROOT)}
    sys.path.insert(0, code)
    import workshop

    assert workshop.__file__.startswith(code), workshop.__file__
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", QUICK]
    code = pytest.main([*options, *tests])
    sys.stdout.flush()
    os._exit(code)


def outcome(name: str, folder: Path) -> tuple[int | None, str]:
    """Return pytest's exit code with a bug planted, and what it said."""
    mutant = MUTANTS[name]
    code = folder / "code"
    shutil.copytree(ROOT / "code", code)
    source = code / "workshop" / mutant["file"]
    text = source.read_text()
    assert text.count(mutant["before"]) == 1, f"{name}: plant it anew"
    source.write_text(text.replace(mutant["before"], mutant["after"]))
    log = folder / "log.txt"
    arguments = (str(code), mutant["tests"], str(log))
    process = fork_server().Process(target=run_tests, args=arguments)
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():  # a hang is a failure that a person would see
        process.kill()
        process.join()
        return None, log.read_text()
    return process.exitcode, log.read_text()


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug(
    name: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Note which test caught it; the share of all is a test of its own."""
    code, said = outcome(name, tmp_path)
    assert code in (None, 0, 1), f"the tests could not run:\n{said[-3000:]}"
    failed = re.search(r"(?:FAILED|ERROR) \S*?([^/\s]+)\.py::(\S+)", said)
    by = "nothing" if code == 0 else failed[2] if failed else "its hang"
    CAUGHT[name] = code != 0
    record_property("planted bug", (name, by, MUTANTS[name]["kind"]))


@pytest.mark.long
def test_nearly_all_are_caught() -> None:
    """By tests that `make test` contains."""
    assert len(CAUGHT) == len(MUTANTS), "run the whole file"
    living = [name for name, caught in CAUGHT.items() if not caught]
    assert 1 - len(living) / len(CAUGHT) >= SHARE, living


def test_every_bug_can_be_planted() -> None:
    """Its text is there once; its tests are there."""
    for name, mutant in MUTANTS.items():
        text = (ROOT / "code/workshop" / mutant["file"]).read_text()
        assert text.count(mutant["before"]) == 1, f"{name}: plant it anew"
        for test in mutant["tests"]:
            assert (ROOT / test).is_file(), f"{name}: no {test}"


def test_the_kinds_are_many() -> None:
    kinds = [mutant["kind"] for mutant in MUTANTS.values()]
    assert len(MUTANTS) >= 36
    assert all(kinds.count(kind) >= 2 for kind in kinds[:27])
