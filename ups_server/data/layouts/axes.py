"""Where the points of an axis may lie, from their coordinates alone."""

import numpy as np
from numpy.typing import NDArray

from ups_server.data.layouts.draft import Sure


def placement(values: NDArray[np.float64], periodic: bool | None) -> tuple[str, Sure, str]:
    """(`cells`, `nodes` or `ends`; how sure; why): the box whose ends are the rounder numbers.

    Args:
        periodic: whether the axis wraps around; None where that is not known.
    """
    if len(values) < 2:
        return "cells", "guess", "one point says nothing about where it lies"
    step = (values[-1] - values[0]) / (len(values) - 1)
    boxes = {
        "ends": (values[0], values[-1]),
        "nodes": (values[0], values[-1] + step),
        "cells": (values[0] - step / 2, values[-1] + step / 2),
    }
    if periodic:
        boxes = {"nodes": boxes["nodes"], "cells": boxes["cells"], "ends": boxes["ends"]}
    digits = {name: _digits(low, step) + _digits(high, step) for name, (low, high) in boxes.items()}
    best = min(boxes, key=lambda name: digits[name])
    low, high = boxes[best]
    said = f"{len(values)} points from {values[0]:.6g} to {values[-1]:.6g} make the box [{low:.6g}, {high:.6g}]"
    clear = sorted(digits.values())[1] - digits[best] >= 2
    return best, "likely" if clear else "guess", said + ("" if clear else "; others are as round")


def _digits(value: float, step: float) -> int:
    """Significant decimal digits of a number, multiples of pi counting as round; 6: none is exact."""
    for scale in (1.0, np.pi):
        for digits in range(1, 6):
            if abs(float(f"{value / scale:.{digits - 1}e}") - value / scale) * scale < 1e-3 * abs(step):
                return digits
    return 6
