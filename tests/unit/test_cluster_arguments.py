"""Arguments of `workshop cluster` that cannot be meant: one sentence."""

import pytest
from typer.testing import CliRunner

from workshop import paths
from workshop.cli import app
from workshop.errors import UserError
from workshop.records import experiments as describe
from workshop.records import job


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("start --port 70000", "port 70000 is out of range"),
        ("start --port 65535", "port 65535 is out of range"),
        ("start --port 80", "port 80 is out of range"),
        ("start --bundle missing", "missing holds no Slurm packages"),
        ("start --bundle /dev/null", "/dev/null holds no Slurm packages"),
        ("start --nodes 0", "--nodes is 0"),
        ("submit slurm/hello.sbatch --timeout nan", "--timeout is nan"),
        ("submit slurm/hello.sbatch --timeout -1", "--timeout is -1"),
        ("submit slurm/hello.sbatch --timeout 0", "--timeout is 0"),
        ("bundle --out full", "holds something else than a bundle"),
    ],
)
def test_it_is_one_sentence(words, says, tmp_path, short_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_ROOT", str(paths.root()))
    monkeypatch.setenv("WORKSHOP_SLURM_BASE", str(short_path / "none"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "work.txt").write_text("a year of it")
    done = CliRunner().invoke(app, ["cluster", *words.split()])
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and says in last
    assert done.stderr.count("error") == 1
    assert not (short_path / "none").exists()
    assert (tmp_path / "full" / "work.txt").is_file()


@pytest.mark.parametrize("given", ["nan", "-1", "1" * 5000, "ten"])
def test_a_time_limit_that_is_none_is_one_sentence(given, monkeypatch):
    toy = describe.read()["lab1/links-1node"]
    monkeypatch.setenv("WORKSHOP_TIMEOUT", given)
    with pytest.raises(UserError, match="WORKSHOP_TIMEOUT is"):
        job.time_limit(toy)
