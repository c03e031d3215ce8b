"""A BERT encoder in NumPy: what a language model makes of a text, in a process without torch.

A clause of ten words takes some ten milliseconds on one core.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ups_server.errors import UserError

Activations = NDArray[np.float32]
"""Weights and what layers make of them, in single precision."""

MAX_TOKENS = 256
"""Of what stands between two commas or full stops."""


AT_ONCE = 64
"""Texts that are read together."""


class Encoder:
    """A BERT body with its tokenizer.

    Args:
        folder: `config.json` and `tokenizer.json` of the language model.
        weights: its tensors under Hugging Face's names; word embeddings keep their type, the rest becomes float32.
    """

    def __init__(self, folder: Path, weights: Mapping[str, NDArray[Any]]) -> None:
        from tokenizers import Tokenizer  # not needed for equations in symbols

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.size = int(config["hidden_size"])
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        words = "embeddings.word_embeddings.weight"
        self._words = weights[words]
        self._weights = {name: np.asarray(w, np.float32) for name, w in weights.items() if name != words}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @classmethod
    def of_model(cls, model: Path) -> "Encoder":
        """The language model inside of a shipped model's folder."""
        return cls(model / "language_model", body_weights(model))

    def tokens(self, text: str) -> Activations:
        """Hidden states (L, E) of the tokens of a text, its two special ones included.

        Raises:
            UserError: ``text_too_long``.
        """
        words = self.word_embeddings(text)
        return self._states(words, [len(words)])[-1]

    def layers(self, text: str) -> Activations:
        """(E * 4,) of unit length: means over the tokens of the word embeddings and of three layers, beside each other.

        Raises:
            UserError: ``text_too_long``.
        """
        return self.layers_of([text])[0]

    def layers_of(self, texts: Sequence[str]) -> list[Activations]:
        """`layers` of many texts, some at once.

        Raises:
            UserError: ``text_too_long``.
        """
        found = list[Activations]()
        depths = [round(self._layers * share / 3) for share in (1, 2, 3)]
        for start in range(0, len(texts), AT_ONCE):
            words = [self.word_embeddings(text) for text in texts[start : start + AT_ONCE]]
            lengths = [len(tokens) for tokens in words]
            states = self._states(np.concatenate(words), lengths)
            ends = np.cumsum(lengths)[:-1]
            for tokens, *inner in zip(words, *(np.split(states[depth], ends) for depth in depths), strict=True):
                first = tokens[1:-1] if len(tokens) > 2 else tokens
                means = np.stack([part.mean(axis=0) for part in (first, *inner)])
                means /= np.linalg.norm(means, axis=1, keepdims=True)
                found.append((means.ravel() / math.sqrt(len(means))).astype(np.float32))
        return found

    def _states(self, words: Activations, lengths: Sequence[int]) -> list[Activations]:
        """Of the tokens (sum of lengths, E) of some texts, before the first and after every layer."""
        positions = np.concatenate([np.arange(length) for length in lengths])
        hidden = words + self._weights["embeddings.position_embeddings.weight"][positions]
        hidden += self._weights["embeddings.token_type_embeddings.weight"][0]
        states = [self._normalised(hidden, "embeddings.LayerNorm")]
        for layer in range(self._layers):
            states.append(self._layer(states[-1], lengths, f"encoder.layer.{layer}."))
        return states

    def word_embeddings(self, text: str) -> Activations:
        """(L, E) of the tokens by themselves.

        Raises:
            UserError: ``text_too_long``.
        """
        ids = self._tokenizer.encode(text).ids
        if len(ids) > MAX_TOKENS:
            raise UserError(
                "text_too_long",
                "a sentence of the description is too long to be read",
                got=f"{len(ids)} tokens",
                expected=f"at most {MAX_TOKENS}",
                hint="use shorter sentences, or commas",
            )
        embedded: Activations = self._words[ids].astype(np.float32)
        return embedded

    def _layer(self, hidden: Activations, lengths: Sequence[int], name: str) -> Activations:
        attention = self._attention(hidden, lengths, f"{name}attention.self.")
        hidden = hidden + self._linear(attention, f"{name}attention.output.dense")
        hidden = self._normalised(hidden, f"{name}attention.output.LayerNorm")
        inner = self._linear(hidden, f"{name}intermediate.dense")
        from scipy.special import erf  # the service starts without it

        inner = 0.5 * inner * (1.0 + erf(inner / math.sqrt(2.0)))
        hidden = hidden + self._linear(inner, f"{name}output.dense")
        return self._normalised(hidden, f"{name}output.LayerNorm")

    def _attention(self, hidden: Activations, lengths: Sequence[int], name: str) -> Activations:
        """Of the tokens to those of the same text."""
        ends = np.cumsum(lengths)[:-1]
        parts = (np.split(self._linear(hidden, name + part), ends) for part in ("query", "key", "value"))
        return np.concatenate([self._mixed(*text) for text in zip(*parts, strict=True)])

    def _mixed(self, *projections: Activations) -> Activations:
        length, size = projections[0].shape
        query, key, value = (part.reshape(length, self._heads, -1).transpose(1, 0, 2) for part in projections)
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        joined: Activations = mixed.transpose(1, 0, 2).reshape(length, size)
        return joined

    def _linear(self, values: Activations, name: str) -> Activations:
        result: Activations = values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return result

    def _normalised(self, values: Activations, name: str) -> Activations:
        centred = values - values.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + self._epsilon)
        result: Activations = centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result


def body_weights(model: Path) -> dict[str, NDArray[Any]]:
    """The language model's tensors in a shipped model's folder, under Hugging Face's names."""
    prefix = "body.encoder."
    with safe_open(model / "model.safetensors", "np") as file:
        return {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
