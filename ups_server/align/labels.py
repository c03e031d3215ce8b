"""Both sides of an alignment as labelled samples: sentences by subject, and states by classes of their outlines.

Targets are dense; their labels are K-means classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ups_server.align.base import PARTS
from ups_server.align.text import ReferenceText
from ups_server.align.transport import squared_distances
from ups_server.errors import UserError
from ups_server.model.embedder import pooled
from ups_server.model.operator import UPSModel

CLASSES = 10
"""Classes of targets, as ORCA and RECRAFT have them."""
ROUNDS = 50
SAMPLES = 256
"""Training windows whose targets fix the classes."""


@dataclass(frozen=True)
class SourceTask:
    """Sentences as they enter the body, or as they leave it.

    Attributes:
        features: (S, E) sequence means.
        labels: (S,) subjects.
        classes: number of subjects.
    """

    features: Tensor
    labels: Tensor
    classes: int


@torch.no_grad()
def source_task(model: UPSModel, text: ReferenceText) -> SourceTask:
    """Every sentence of the reference text through the body's embedding layer.

    Raises:
        UserError: ``reference_text_unlabelled``.
    """
    return _labelled_task(model.text_features, text)


@torch.no_grad()
def source_task_read(model: UPSModel, text: ReferenceText) -> SourceTask:
    """Every sentence of the reference text through the whole body: what a predictor behind it is given.

    Raises:
        UserError: ``reference_text_unlabelled``.
    """
    return _labelled_task(model.read_text_features, text)


def _labelled_task(features_of: Callable[[tuple[str, ...]], Tensor], text: ReferenceText) -> SourceTask:
    names = labelled(text)
    features = features_of(text.texts)
    labels = [names.index(sentence.subject) for sentence in text.sentences]
    return SourceTask(features.float(), torch.tensor(labels, device=features.device), len(names))


def labelled(text: ReferenceText) -> tuple[str, ...]:
    """Its subjects. Raises UserError ``reference_text_unlabelled`` where there is one alone."""
    names = text.subjects
    if len(names) < 2:
        raise UserError(
            "reference_text_unlabelled",
            "this alignment needs sentences of several subjects",
            got=list(names),
            hint="give a folder with a file a subject, or choose the alignment `mmd`",
        )
    return names


@torch.no_grad()
def passages(model: UPSModel, text: ReferenceText, length: int) -> tuple[Tensor, Tensor]:
    """Word embeddings (P, length, E) and subjects (P,) of passages: each subject's text, cut every `length` tokens.

    Cut to the number of tokens that a state has, and without padding, which must not take the place of a token.

    Raises:
        UserError: ``reference_text_unlabelled``.
    """
    names, tokens, labels = labelled(text), [], []
    for label, name in enumerate(names):
        rows, mask = model.metadata.beginnings(text.about(name))
        running = rows[mask.bool()]
        cut = running[: len(running) // length * length].unflatten(0, (-1, length))
        tokens.append(cut)
        labels += [label] * len(cut)
    return torch.cat(tokens), torch.tensor(labels, device=tokens[0].device)


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
