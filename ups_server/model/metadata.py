"""Metadata tokens: the equation's text through the language model's own tokenizer and word embeddings."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 48


class MetadataEncoder:
    """Frozen word embeddings and their tokenizer. Special tokens are left out; padding is masked.

    No module of its own: the embeddings belong to the language model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: nn.Embedding) -> None:
        self.tokenizer = tokenizer
        self.embeddings = embeddings.requires_grad_(False)
        self._ids = lru_cache(maxsize=65536)(self._tokenize)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_TOKENS]
        return tuple(ids)

    def tokens(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Token embeddings (B, T, E) and their mask (B, T), one for real tokens."""
        rows = [self._ids(text) for text in texts]
        device = self.embeddings.weight.device
        length = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *(0,) * (length - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1.0] * len(row) + [0.0] * (length - len(row)) for row in rows], device=device)
        return self.embeddings(ids), mask

    def mean(self, texts: tuple[str, ...]) -> Tensor:
        """Mean word embedding (B, E) of each text."""
        unique = tuple(dict.fromkeys(texts))
        tokens, mask = self.tokens(unique)
        means = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        # Scaled to unit variance: word embeddings are ~0.05 a component.
        means = means / means.std(dim=-1, keepdim=True)
        return means[[unique.index(text) for text in texts]]
