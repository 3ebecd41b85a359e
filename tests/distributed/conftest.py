"""The rank pools for every distributed test, and the table of the bugs."""

import math

import pytest
from pool import pool2, pool4

__all__ = ["pool2", "pool4"]

ROWS = pytest.StashKey[list[tuple[str, str, float]]]()


@pytest.fixture(scope="session")
def planted_table(pytestconfig: pytest.Config) -> list:
    """Rows (bug, the check that caught it, ratio) for the final report."""
    return pytestconfig.stash.setdefault(ROWS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print which check caught which planted bug."""
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("planted bugs")
    width = max(len(name) for name, _, _ in rows)
    line = f"{{:{width}}} | {{:9}} | {{}}"
    heads = ("bug", "caught by", "ratio of norms (traffic: of bytes)")
    terminalreporter.write_line(line.format(*heads))
    for name, caught, ratio in rows:
        shown = "" if math.isnan(ratio) else f"{ratio:.6g}"
        terminalreporter.write_line(line.format(name, caught, shown))
