"""What all tests share: import paths, and what a session says at its end."""

import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
for folder in ("tests", "tools", "book/_ext"):
    sys.path.insert(0, str(ROOT / folder))

# A shell starts what runs in the background with SIGINT ignored, and every
# program that a test starts would inherit that and never see its Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, whose paths are short: pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="wst-", dir="/tmp") as folder:
        yield Path(folder)


class Executed:
    """Counts the tests whose body ran, and keeps what they report.

    With several workers only the process that prints sees all reports.
    """

    def __init__(self) -> None:
        self.count = 0
        self.planted: list[tuple[str, str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that passed or failed, and keep a planted bug."""
        if report.when != "call" or report.skipped:
            return
        self.count += 1
        for name, value in report.user_properties:
            if name == "planted bug":
                self.planted.append(tuple(value))

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Print which check caught which planted bug."""
        if not self.planted:
            return
        terminalreporter.section("planted bugs")
        width = max(len(name) for name, _, _ in self.planted)
        line = f"{{:{width}}} | {{:9}} | {{}}"
        heads = (
            "bug",
            "caught by",
            "ratio of norms (traffic: of bytes), or kind",
        )
        for row in (heads, *sorted(self.planted)):
            terminalreporter.write_line(line.format(*row))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a session in which everything was skipped."""
        collecting = session.config.option.collectonly
        if hasattr(session.config, "workerinput"):
            return  # a worker sees its share alone
        nothing = session.testscollected and not (self.count or collecting)
        if nothing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print("\nerror: every test was skipped, so nothing was tested")


def pytest_configure(config: pytest.Config) -> None:
    """Start counting."""
    config.pluginmanager.register(Executed())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> None:
    """Say in one line that the GPU tests were left out."""
    if not torch.cuda.is_available():
        terminalreporter.write_line(
            "tests/gpu left out, no CUDA device here: on a GPU node run "
            "`python -m pytest tests/gpu` or `workshop runs submit tests/gpu`"
        )
