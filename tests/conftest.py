"""What all tests share: import paths, and that a run executes something."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
for folder in ("tests", "tools", "book/_ext"):
    sys.path.insert(0, str(ROOT / folder))


class Executed:
    """Counts the tests whose body ran."""

    def __init__(self) -> None:
        self.count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that passed or failed."""
        self.count += report.when == "call" and not report.skipped

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a session in which everything was skipped."""
        collecting = session.config.option.collectonly
        nothing = session.testscollected and not (self.count or collecting)
        if nothing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print("\nerror: every test was skipped, so nothing was tested")


def pytest_configure(config: pytest.Config) -> None:
    """Start counting."""
    config.pluginmanager.register(Executed())
