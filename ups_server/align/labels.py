"""Both sides of an alignment as labelled samples: sentences by subject, and states by classes of their outlines.

The reference text is our own sentences about physics, equations and their computation: plain text in the package folder
`reference_text`, one file a subject, one sentence a line. Targets are dense; their labels are K-means classes.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor

from ups_server.align.base import PARTS
from ups_server.align.transport import squared_distances
from ups_server.model.embedder import pooled
from ups_server.model.operator import UPSModel

CLASSES = 10
"""Classes of targets, as ORCA and RECRAFT have them."""
ROUNDS = 50
SAMPLES = 256
"""Training windows whose targets fix the classes."""
_FOLDER = "reference_text"


class Sentence(NamedTuple):
    """One sentence and the physical subject it is about."""

    text: str
    subject: str


@cache
def subjects() -> tuple[str, ...]:
    """The subjects in alphabetical order: the class labels of `sentences`."""
    names = (entry.name for entry in files(__package__).joinpath(_FOLDER).iterdir())
    return tuple(sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt")))


@cache
def sentences() -> tuple[Sentence, ...]:
    """Every sentence, ordered by subject and then as written."""
    folder = files(__package__).joinpath(_FOLDER)
    return tuple(
        Sentence(line, subject)
        for subject in subjects()
        for line in folder.joinpath(f"{subject}.txt").read_text(encoding="utf-8").splitlines()
    )


@dataclass(frozen=True)
class SourceTask:
    """Sentences as they enter the body.

    Attributes:
        features: (S, E) sequence means.
        labels: (S,) subjects.
        classes: number of subjects.
    """

    features: Tensor
    labels: Tensor
    classes: int


@torch.no_grad()
def source_task(model: UPSModel) -> SourceTask:
    """Every sentence of the reference text through the body's embedding layer."""
    corpus, names = sentences(), subjects()
    features = model.text_features(tuple(sentence.text for sentence in corpus))
    labels = [names.index(sentence.subject) for sentence in corpus]
    return SourceTask(features.float(), torch.tensor(labels, device=features.device), len(names))


@torch.no_grad()
def passages(model: UPSModel, length: int) -> tuple[Tensor, Tensor]:
    """Word embeddings (P, length, E) and subjects (P,) of passages: each subject's text, cut every `length` tokens.

    Cut to the number of tokens that a state has, and without padding, which must not take the place of a token.
    """
    names, tokens, labels = subjects(), [], []
    for label, name in enumerate(names):
        texts = tuple(sentence.text for sentence in sentences() if sentence.subject == name)
        rows, mask = model.metadata.beginnings(texts)
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
