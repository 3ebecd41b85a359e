"""Tables that papers printed, for pages and tests that recompute them.

The numbers are the papers' own, at the precision that they printed.
"""

from typing import NamedTuple


class Shoeybi2019(NamedTuple):
    """A row of table 1 of arXiv:1909.08053; V = 51200, s = 1024."""

    hidden: int
    heads: int
    layers: int
    billions: float
    tensor: int
    gpus: int


class Narayanan2021(NamedTuple):
    """A row of table 1 of arXiv:2104.04473; V = 51200, s = 2048.

    `tflops` is the speed of one GPU in TFLOP/s, `percent` its share of the
    peak, `pflops` the speed of all GPUs together in PFLOP/s.
    """

    billions: float
    heads: int
    hidden: int
    layers: int
    tensor: int
    pipeline: int
    gpus: int
    batch: int
    tflops: int
    percent: int
    pflops: float

    @property
    def data(self) -> int:
        """The data parallel size d = n / (t p)."""
        return self.gpus // (self.tensor * self.pipeline)


SHOEYBI_2019 = (
    Shoeybi2019(1536, 16, 40, 1.2, 1, 64),
    Shoeybi2019(1920, 20, 54, 2.5, 2, 128),
    Shoeybi2019(2304, 24, 64, 4.2, 4, 256),
    Shoeybi2019(3072, 32, 72, 8.3, 8, 512),
)

NARAYANAN_2021 = tuple(
    Narayanan2021(*row)
    for row in (
        (1.7, 24, 2304, 24, 1, 1, 32, 512, 137, 44, 4.4),
        (3.6, 32, 3072, 30, 2, 1, 64, 512, 138, 44, 8.8),
        (7.5, 32, 4096, 36, 4, 1, 128, 512, 142, 46, 18.2),
        (18.4, 48, 6144, 40, 8, 1, 256, 1024, 135, 43, 34.6),
        (39.1, 64, 8192, 48, 8, 2, 512, 1536, 138, 44, 70.8),
        (76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140, 45, 143.8),
        (145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148, 47, 227.1),
        (310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155, 50, 297.4),
        (529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163, 52, 410.2),
        (1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 163, 52, 502.0),
    )
)
