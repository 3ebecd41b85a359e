"""Execute and build the book into `_build/html`; instant if unchanged.

A failed build leaves no stamp and its parsed pages are thrown away, so that
the next build says the same things again: Sphinx does not repeat warnings.
Runs under `.venv/bin/python`, from the Makefile.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import book_inputs
import psutil

ROOT = book_inputs.ROOT
BUILD = ROOT / "_build"
HTML = BUILD / "html"
LINES = 15
END_TIMEOUT_S = 5


def environment() -> dict[str, str]:
    """Return the variables under which the cells run."""
    ipython = ROOT / ".cache" / "ipython"
    ipython.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WORKSHOP_ROOT": str(ROOT),
        "IPYTHONDIR": str(ipython),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONUTF8": "1",
    }


def slurm_answers(env: dict[str, str]) -> bool:
    """Say whether a Slurm is up: the site's own, or the local cluster."""
    program = (
        "import sys; from workshop.errors import one_sentence; "
        "from workshop.slurm import local as cluster; "
        "sys.exit(not one_sentence(cluster.available)())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, env=env
    )
    return done.returncode == 0


def cluster(command: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run `workshop cluster COMMAND` and return how it went."""
    program = Path(sys.executable).parent / "workshop"
    return subprocess.run(
        [program, "cluster", command],
        check=False,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A second Ctrl-C must not end what stops the cluster.
        start_new_session=True,
    )


@contextmanager
def slurm(env: dict[str, str]) -> Iterator[None]:
    """Have a Slurm cluster up while the cells run, if that can be."""
    if slurm_answers(env):
        print("the cells use the Slurm that is up", flush=True)
        yield
        return
    print("starting the local Slurm cluster", flush=True)
    up = True  # also one that was interrupted while it started
    try:
        started = cluster("start", env)
        up = started.returncode == 0
        if not up:
            said = started.stdout.strip().splitlines() or ["no reason given"]
            print(
                f"no Slurm here ({said[-1]}): its cells replay their record",
                flush=True,
            )
        yield
    finally:
        if up and cluster("stop", env).returncode:
            print(
                "the local Slurm cluster did not stop: run "
                "'.venv/bin/workshop cluster stop'",
                file=sys.stderr,
            )


def show_failed_cells() -> None:
    """Print why cells failed, from the reports that lie among the pages."""
    for report in sorted((HTML / "reports").rglob("*.err.log")):
        page = report.relative_to(HTML / "reports").as_posix()
        print(f"a cell of {page.removesuffix('.err.log')} failed:")
        print("\n".join(report.read_text().splitlines()[-LINES:]))


def forget_pages() -> None:
    """Remove parsed and written pages; executed cells stay cached."""
    for folder in (HTML, BUILD / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)


def pages() -> list[Path]:
    """Return the HTML files that `_toc.yml` promises."""
    names = [
        line.split(":", 1)[1].strip()
        for line in (ROOT / "_toc.yml").read_text().splitlines()
        if line.lstrip("- ").startswith(("root:", "file:"))
    ]
    return [HTML / f"{name}.html" for name in names]


def jupyter_book(env: dict[str, str]) -> int:
    """Run Jupyter Book and return its exit code.

    It gets a session of its own: Ctrl-C reaches this program alone, which
    ends it at once, with its kernels and all that they have started.
    """
    command = [Path(sys.executable).parent / "jupyter-book", "build", "book"]
    command += ["--config", "_config.yml", "--toc", str(ROOT / "_toc.yml")]
    command += ["--path-output", ".", "-W", "-n", "--keep-going"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait()
    except BaseException:
        family = []
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        end_all(family)
        raise


def end_all(processes: list[psutil.Process]) -> None:
    """Ask processes to end, srun's job with it, and make those that do not.

    Whoever is gone already is left out.
    """
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=END_TIMEOUT_S)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def interrupt_when_told() -> None:
    """Clean up after a closed terminal or a plain kill as after Ctrl-C.

    Once told, it is not told again: a second Ctrl-C would leave a cluster.
    """
    told = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal told
        if not told:
            told = True
            raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) != signal.SIG_IGN:  # nohup has it ignored
            signal.signal(each, interrupt)


def build(env: dict[str, str]) -> None:
    """Build and make sure that the pages are there."""
    code = jupyter_book(env)
    missing = [page for page in pages() if not page.is_file()]
    if code or missing:
        show_failed_cells()
        forget_pages()
        raise SystemExit(
            "error: the book was not built; repair what the lines above "
            "name and run 'make book' again"
            if code
            else f"error: the build ended well but wrote no {missing[0].name}"
        )


def refresh() -> None:
    """Build, unless the pages are of exactly these sources."""
    began = time.monotonic()
    stamp = book_inputs.stamp()
    if book_inputs.fresh():
        print("the book is up to date")
        return
    if not stamp.is_file():
        forget_pages()
    stamp.unlink(missing_ok=True)
    wanted = book_inputs.digest()
    env = environment()
    with slurm(env):
        build(env)
    stamp.write_text(wanted)
    print(f"built in {time.monotonic() - began:.0f} s")


def main() -> None:
    """Build when something changed, then say where the book is."""
    interrupt_when_told()
    try:
        refresh()
    except KeyboardInterrupt:
        raise SystemExit(
            "error: interrupted; 'make book' builds what is missing"
        ) from None
    print(f"open {(HTML / 'index.html').as_uri()}")
    print(
        "or serve it: "
        ".venv/bin/python -m http.server --bind 127.0.0.1 -d _build/html"
    )


if __name__ == "__main__":
    main()
