"""A pytest plugin: the counts of a test run become measures of the run.

python -m pytest -p workshop.records.pytest_measures tests/gpu
"""

import os

import pytest

from workshop.job.metrics import MetricsWriter

OUTCOMES = ("passed", "failed", "error", "skipped")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the counts; a run in which no test passed has failed."""
    if hasattr(session.config, "workerinput"):
        return  # the process that prints sees all workers' reports
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    counts = {name: len(reporter.stats.get(name, [])) for name in OUTCOMES}
    if path := os.environ.get("WORKSHOP_METRICS"):
        with MetricsWriter(path) as writer:
            writer.meta(tests=session.testscollected)
            for outcome, count in counts.items():
                writer.measure(f"tests_{outcome}", count, "tests")
    if not counts["passed"] and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
