"""The set-up: interpreters that do not fit, stamps, and what is pinned."""

import os
import re
import subprocess
import sys
from pathlib import Path

import book_inputs
import build_book
import environment
import javascript
import pytest

ROOT = Path(__file__).resolve().parents[2]


def find_python(**env: str) -> subprocess.CompletedProcess:
    """Run the search for an interpreter."""
    return subprocess.run(
        ["/bin/sh", str(ROOT / "tools" / "find_python.sh")],
        check=False, env=env, capture_output=True, text=True,
    )  # fmt: skip


def fake(folder: Path, name: str, version: str) -> Path:
    """Create a program that answers as a Python of another version would."""
    path = folder / name
    path.write_text(
        "#!/bin/sh\ncase $2 in *sys.exit*) exit 1;; "
        f"*) echo {version};; esac\n"
    )
    path.chmod(0o755)
    return path


def test_a_python_that_fits_is_found() -> None:
    done = find_python(PYTHON=sys.executable, PATH=os.environ["PATH"])
    assert done.returncode == 0
    assert done.stdout.strip() == sys.executable


def test_a_python_that_does_not_fit_gets_one_sentence(tmp_path) -> None:
    old = fake(tmp_path, "python3", "3.9.2")
    named = {"PYTHON": str(old), "PATH": os.environ["PATH"]}
    for env in (named, {"PATH": str(tmp_path)}):
        done = find_python(**env)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "3.11 or 3.12" in done.stderr and "3.9.2" in done.stderr


def test_make_says_what_find_python_says(tmp_path) -> None:
    old = fake(tmp_path, "python3.9", "3.9.2")
    done = subprocess.run(
        ["make", "environment", f"PYTHON={old}"],
        check=False, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "is 3.9.2" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("version", [(3, 10), (3, 13), (2, 7)])
def test_the_environment_refuses_another_python(version) -> None:
    with pytest.raises(SystemExit, match=r"error: this project needs Py"):
        environment.check_interpreter(version)


def test_a_missing_venv_module_is_named(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="install the package python3.1"):
        environment.check_interpreter(sys.version_info[:2])


def test_a_failed_step_ends_with_one_sentence(capfd) -> None:
    with pytest.raises(SystemExit, match="could not install nothing"):
        environment.step(2, "Install nothing", "false")
    assert "[2/5] Install nothing" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: Ignored the following versions that require a different "
         "python: 4.1 Requires-Python >=3.11.5\nERROR: No matching "
         "distribution found for x==4.1\n",
         "Requires-Python >=3.11.5 / No matching distribution found for "
         "x==4.1); mend that,"),
        ("WARNING: Retrying (Retry(total=0)) after connection broken\n"
         "ERROR: No matching distribution found for x==4.1\n",
         "found for x==4.1); check the network,"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] "
         "No space left on device\n", "device); free some disk space,"),
        ("npm error code ENOTFOUND\n", "ENOTFOUND); check the network,"),
    ],
)  # fmt: skip
def test_a_failure_gives_its_own_reason(said, expected) -> None:
    assert expected in environment.because(said)


def test_a_failed_step_repeats_what_the_program_said(capfd) -> None:
    program = "import sys; sys.exit('ERROR: no such x')"
    with pytest.raises(SystemExit, match=r"\(no such x\); mend that, then"):
        environment.step(2, "Install x", sys.executable, "-c", program)
    assert "ERROR: no such x" in capfd.readouterr().err


def test_only_a_torch_with_cuda_is_announced(tmp_path) -> None:
    wheel = tmp_path / "torch.whl"
    wheel.write_bytes(b"x" * 5)

    def report(*names: str) -> dict:
        info = {"download_info": {"url": wheel.as_uri()}}
        return {"install": [info | {"metadata": {"name": n}} for n in names]}

    assert environment.downloads(report("torch", "nvidia-ml-py")) == []
    cuda = environment.downloads(report("torch", "nvidia-cudnn-cu13"))
    assert [environment.size(address) for address in cuda] == [5] * 2
    assert environment.size((tmp_path / "none").as_uri()) == 0


def test_every_requirement_is_pinned_once() -> None:
    pins = {}
    for name in ("requirements-torch.txt", "requirements.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line.startswith("#"):
                continue
            match = re.fullmatch(r"([\w.-]+)==([\w.+]+)", line)
            assert match, f"{name} does not pin {line!r}"
            assert match[1].lower() not in pins, f"{line} is pinned twice"
            pins[match[1].lower()] = match[2]
    assert {"torch", "jupyter-book", "pytest", "numpy"} <= pins.keys()


def test_the_stamp_of_the_environment_follows_its_sources(tmp_path) -> None:
    for name in environment.SOURCES:
        (tmp_path / name).write_text("one")
    before = environment.digest(tmp_path)
    assert before == environment.digest(tmp_path)
    for name in environment.SOURCES:
        (tmp_path / name).write_text("two")
        assert environment.digest(tmp_path) != before
        before = environment.digest(tmp_path)


def test_node_comes_from_the_environment() -> None:
    node = javascript.node_folder() / "bin" / "node"
    assert node.is_relative_to(sys.prefix)
    subprocess.run([node, "--version"], check=True, capture_output=True)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch) -> Path:
    """A checkout that looks built."""
    monkeypatch.delenv("WORKSHOP_RUN", raising=False)
    for name in ("book/a.md", "code/workshop/a.py", "slurm/a.sbatch",
                 "_build/html/index.html"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    stamp = book_inputs.stamp(tmp_path)
    stamp.write_text(book_inputs.digest(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["book/a.md", "code/workshop/a.py", "slurm/a.sbatch", "book/b.md"]
)
def test_a_changed_input_makes_the_book_stale(workshop, name) -> None:
    assert book_inputs.fresh(workshop)
    (workshop / name).write_text("two")
    assert not book_inputs.fresh(workshop)


def test_the_mode_of_the_cells_is_an_input(workshop, monkeypatch) -> None:
    monkeypatch.setenv("WORKSHOP_RUN", "local")
    assert not book_inputs.fresh(workshop)


def test_a_missing_page_makes_the_book_stale(workshop) -> None:
    (workshop / "code" / "__pycache__").mkdir()
    (workshop / "code" / "__pycache__" / "a.pyc").write_text("compiled")
    assert book_inputs.fresh(workshop)
    (workshop / "_build" / "html" / "index.html").unlink()
    assert not book_inputs.fresh(workshop)


def test_the_pages_of_the_book_are_those_of_its_contents() -> None:
    names = {path.relative_to(build_book.HTML) for path in build_book.pages()}
    assert Path("lab1/01_cluster.html") in names
    assert Path("index.html") in names
    assert len(names) == (ROOT / "_toc.yml").read_text().count("file:") + 1


def test_a_failed_build_leaves_no_stamp_and_no_pages(
    tmp_path, monkeypatch, capsys
) -> None:
    build = tmp_path / "_build"
    html = build / "html"
    (build / ".doctrees").mkdir(parents=True)
    (html / "reports" / "lab1").mkdir(parents=True)
    report = html / "reports" / "lab1" / "01.err.log"
    report.write_text("In [1]: boom\nUserError: no record\n")
    monkeypatch.setattr(build_book, "BUILD", build)
    monkeypatch.setattr(build_book, "HTML", html)
    monkeypatch.setattr(build_book, "jupyter_book", lambda env: 1)
    with pytest.raises(SystemExit, match="the book was not built"):
        build_book.build({})
    assert not html.exists() and not (build / ".doctrees").exists()
    said = capsys.readouterr().out
    assert "a cell of lab1/01 failed:" in said and "no record" in said


def test_a_build_that_writes_nothing_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build_book, "BUILD", tmp_path)
    monkeypatch.setattr(build_book, "HTML", tmp_path / "html")
    monkeypatch.setattr(build_book, "jupyter_book", lambda env: 0)
    with pytest.raises(SystemExit, match="wrote no index.html"):
        build_book.build({})


def test_the_script_of_continuous_integration_parses() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=True)
    targets = re.findall(r"make ([\w -]+)$", script.read_text(), re.MULTILINE)
    for names in targets:
        subprocess.run(
            ["make", "-n", *names.split()],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    assert {"test", "clean-book book", "test-site"} <= set(targets)
    assert targets.index("clean-book book") < targets.index("test")


def test_help_lists_every_target() -> None:
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE):
        assert re.search(rf"^  {name} +\S", done.stdout, re.MULTILINE), name
