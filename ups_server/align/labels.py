"""Labels for dense targets: K-means classes of their outlines."""

import torch
from torch import Tensor

from ups_server.align.base import PARTS
from ups_server.align.mmd import squared_distances
from ups_server.model.predictor import pooled

CLASSES = 10
"""Classes of targets, as ORCA and RECRAFT have them."""
ROUNDS = 50
SAMPLES = 256
"""Training windows whose targets fix the classes."""


def outlines(states: Tensor) -> Tensor:
    """Normalised states (B, N, X...) -> (B, N * PARTS): means over equal parts of the box, in any dimension."""
    return pooled(states.float(), PARTS).flatten(1)


def kmeans(points: Tensor, count: int = CLASSES) -> Tensor:
    """Centres (K, F) of Lloyd's algorithm from a start that is farthest from the centres before it; K <= count.

    Deterministic, so that a restart finds the same classes. Points that are all equal make one class.
    """
    points = points.double()
    chosen = [int((points - points.mean(0)).square().sum(1).argmax())]
    nearest = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < min(count, len(points)) and float(nearest.max()) > 0:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    centres = points[chosen]
    for _ in range(ROUNDS):
        members = torch.nn.functional.one_hot(classify(points, centres), len(centres)).double()
        sizes = members.sum(0)
        moved = torch.where(sizes[:, None] > 0, members.T @ points / sizes.clamp_min(1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.float()


def classify(points: Tensor, centres: Tensor) -> Tensor:
    """(B,) index of the nearest centre."""
    return squared_distances(points.to(centres.dtype), centres).argmin(1)
