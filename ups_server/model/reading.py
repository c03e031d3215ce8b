"""What a language model makes of a text: the mean of its last hidden states, in units of its own spread."""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def text_features(body: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, Tensor]:
    """A feature (E,) of every text, without special tokens. Two texts are read apart: neither depends on the other."""
    found = dict[str, Tensor]()
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        hidden = body(input_ids=ids.to(body.device)).last_hidden_state[0].mean(0)
        found[text] = hidden / hidden.std()
    return found
