"""The α-β model of a message: time = α + bytes / β.

α is what any message costs (latency), β the bandwidth that a very long one
reaches.  The model is Hockney's (1994), "The communication challenge for
MPP: Intel Paragon and Meiko CS-2", with β written as a bandwidth.
"""

from dataclasses import dataclass
from statistics import median

import numpy as np


@dataclass(frozen=True)
class Fit:
    """α in seconds, β in bytes a second, and how well they describe.

    `typical_error` and `largest_error` are the median and the maximum of
    |fitted − measured| / measured over the points.
    """

    alpha: float
    beta: float
    typical_error: float
    largest_error: float

    def seconds(self, size: float) -> float:
        """Return the modelled time of a message of `size` bytes."""
        return self.alpha + size / self.beta


def fit_alpha_beta(sizes: list[int], seconds: list[float]) -> Fit:
    """Return the α and β with the least squares of the relative errors.

    Relative, because the times span five orders of magnitude and absolute
    squares would hear the longest message alone.  Dividing each equation
    α + bytes·(1/β) = t by its t makes it an ordinary least-squares problem.

    Raises:
        ValueError: fewer than two different sizes, or the times do not grow
            with the size, so that no bandwidth fits.
    """
    x = np.asarray(sizes, dtype=float)
    t = np.asarray(seconds, dtype=float)
    if len(set(sizes)) < 2:
        raise ValueError("α and β need messages of at least two sizes")
    rows = np.stack([1 / t, x / t], axis=1)
    scale = np.linalg.norm(rows, axis=0)
    answer, *_ = np.linalg.lstsq(rows / scale, np.ones_like(t), rcond=None)
    alpha, slope = (float(value) for value in answer / scale)
    if slope <= 0:
        raise ValueError("the times do not grow with the messages' sizes")
    errors = np.abs((alpha + x * slope) / t - 1).tolist()
    return Fit(alpha, 1 / slope, median(errors), max(errors))
