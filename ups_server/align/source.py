"""The source side of adaptation: the reference text as a labelled task, its classes the physical subjects."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ups_server.align.corpus import sentences, subjects
from ups_server.model.ups import UPSModel


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
        rows, mask = model.metadata.tokens(tuple(sentence.text for sentence in sentences() if sentence.subject == name))
        running = rows[mask.bool()]
        cut = running[: len(running) // length * length].unflatten(0, (-1, length))
        tokens.append(cut)
        labels += [label] * len(cut)
    return torch.cat(tokens), torch.tensor(labels, device=tokens[0].device)
