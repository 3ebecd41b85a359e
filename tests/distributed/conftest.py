"""The rank pools for every distributed test."""

from collections.abc import Iterator

import pytest
from pool import Pool


@pytest.fixture(scope="session")
def pool2() -> Iterator[Pool]:
    """Two ranks for the session."""
    with Pool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def pool4() -> Iterator[Pool]:
    """Four ranks for the session."""
    with Pool(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def pool8() -> Iterator[Pool]:
    """Eight ranks for one module: few tests need them."""
    with Pool(8) as pool:
        yield pool
