"""The pretrained language model that reads a problem: a Hugging Face model of `ARCHITECTURES`, loaded from a folder.

It takes part in three ways: its tokenizer and word embeddings make metadata tokens of an equation's text, its layers
run over these and the tokens of a state, and its last hidden states are features of a text by itself.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ups_server.catalog import read_document
from ups_server.errors import UserError
from ups_server.language.pretrained import default_folder
from ups_server.model.architectures import Architecture, architecture_of
from ups_server.plugins import broken_plugin, load_plugin, plugins

OWN_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Whatever a folder says: nothing is fetched, and none of its programs is run."""
MAX_TOKENS = 64
"""Of an equation's name with its coefficients."""
FEWEST_TOKENS = 16
"""Of these, that a language model must have room for beside the tokens of a state."""
PLAIN: dict[str, Any] = {"add_special_tokens": False}


BODIES = "ups_server.bodies"
"""Entry points of this group name functions that give the folder of a language model."""


def body_folder(given: Path | None) -> Path:
    """The folder of a language model: itself, what the plug-in of that name says, or that of the default one.

    Raises:
        UserError: ``language_model_missing``, ``language_model_changed``, ``broken_plugin``.
    """
    if given is None:
        return default_folder()
    entry = plugins(BODIES).get(str(given))
    if entry is None or given.is_dir():
        return given
    try:
        folder = Path(load_plugin(entry)())
    except UserError:
        raise
    except Exception as error:
        raise broken_plugin(entry, f"{type(error).__name__}: {error}") from error
    if not (folder / "config.json").is_file():
        raise broken_plugin(entry, str(folder), "a folder with config.json, a tokenizer and safetensors weights")
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **OWN_CODE)
    return tokenizer


def pretrained_body(folder: Path, layers: int = 0) -> PreTrainedModel:
    """The pretrained model, cut to its first `layers` layers (0: all).

    Raises:
        UserError: ``unsupported_language_model``, ``not_a_language_model``.
    """
    config = _config(folder, layers)
    kind = _model_class(config)
    try:
        with quiet_loading():
            whole, found = kind.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                **_without_pooler(kind),
                **OWN_CODE,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_a_language_model(folder, str(error)) from error
    if found["missing_keys"]:
        raise _not_a_language_model(folder, f"no weights for {', '.join(sorted(found['missing_keys'])[:3])}")
    return _body_of(whole)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the progress bar and the report about weights that are not needed (the pooler, dropped layers)."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def empty_body(folder: Path, layers: int = 0) -> PreTrainedModel:
    """The same architecture with random weights: to be filled from a checkpoint, or as a control.

    Raises:
        UserError: ``unsupported_language_model``, ``not_a_language_model``.
    """
    return new_body(_config(folder, layers))


def new_body(config: Any) -> PreTrainedModel:
    """A model of random weights.

    Raises:
        UserError: ``unsupported_language_model``.
    """
    kind = _model_class(config)
    return _body_of(kind(config, **_without_pooler(kind)))


def check_language_model_folder(folder: Path) -> None:
    """Raises UserError ``unsupported_language_model`` or ``not_a_language_model``; reads no weights."""
    _config(folder, 0)


def _model_class(config: Any) -> Any:
    return getattr(transformers, architecture_of(config.model_type).model)


def _without_pooler(kind: Any) -> dict[str, bool]:
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def _body_of(whole: PreTrainedModel) -> PreTrainedModel:
    part = architecture_of(whole.config.model_type).part
    body: PreTrainedModel = getattr(whole, part) if part else whole
    return body


def _config(folder: Path, layers: int) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        raise _not_a_language_model(folder, "no config.json")
    architecture_of(str(read_document(file).get("model_type")))
    config = AutoConfig.from_pretrained(folder, **OWN_CODE)
    config = getattr(config, "text_config", config)
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _not_a_language_model(folder: Path, got: str) -> UserError:
    return UserError(
        "not_a_language_model",
        f"no language model can be loaded from {folder.name}",
        got=got[:500],
        expected="config.json, a tokenizer and complete safetensors weights",
    )


class MetadataEncoder:
    """Word embeddings, frozen unless training says otherwise, and their tokenizer. Special tokens are left out;
    padding is masked.

    No module of its own: the embeddings belong to the language model.

    Args:
        most: tokens of a text at most.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: nn.Embedding, most: int = MAX_TOKENS) -> None:
        self.tokenizer = tokenizer
        self.embeddings = embeddings.requires_grad_(False)
        self.most = most
        self._ids = lru_cache(maxsize=65536)(self._tokenize)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        """Of a text.

        Raises:
            UserError: ``text_too_long``; nothing is cut.
        """
        ids = tuple(self.tokenizer(text, **PLAIN)["input_ids"])
        if len(ids) > self.most:
            raise UserError(
                "text_too_long",
                "the name of the equation with its coefficients is too long for the language model",
                got=f"{len(ids)} tokens",
                expected=f"at most {self.most}",
                hint="use a shorter name or fewer coefficients",
            )
        return ids

    def tokens(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Token embeddings (B, T, E) and their mask (B, T), one for real tokens.

        Raises:
            UserError: ``text_too_long``.
        """
        return self._embedded([self._ids(text) for text in texts])

    def beginnings(self, texts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """The same of the first tokens of reference texts, which are samples of language."""
        return self._embedded([tuple(self.tokenizer(text, **PLAIN)["input_ids"])[: self.most] for text in texts])

    def _embedded(self, rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
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


class LLMBody(nn.Module):
    """Transformer layers over mixed sequences, in both directions. Positions and layer norm come once, warm-started
    from the LLM.

    Tokens are put in order before they are read, real ones first: so positions, absolute or relative, count real tokens
    only, and padding in a batch changes nothing.

    Args:
        prefix: tokens of a prefix, to be filled from a checkpoint; see `begin_prefix`.

    Attributes:
        word_size: width of the tokens that enter, which is that of word embeddings.
        size: width of hidden states.
        prefix: (layers, P, E) what enters each layer in front of a sequence, where there is a prefix.
    """

    prefix: nn.Parameter | None

    def __init__(self, encoder: PreTrainedModel, prefix: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.architecture: Architecture = architecture_of(encoder.config.model_type)
        self.size: int = encoder.config.hidden_size
        self.word_size: int = self.words.embedding_dim
        layers = int(encoder.config.num_hidden_layers)
        self.prefix = nn.Parameter(torch.zeros(layers, prefix, self.size)) if prefix else None

    @property
    def words(self) -> nn.Embedding:
        """Word embeddings."""
        found = self.encoder.get_input_embeddings()
        if not isinstance(found, nn.Embedding):
            raise TypeError(f"{type(self.encoder).__name__} has no word embeddings")
        return found

    @property
    def longest(self) -> int | None:
        """Tokens of a sequence at most; None where positions are relative."""
        table = attrgetter(self.architecture.positions)(self.encoder) if self.architecture.positions else None
        if table is None:
            return None
        return int(table.num_embeddings) - (0 if table.padding_idx is None else int(table.padding_idx) + 1)

    def most_words(self, state_tokens: int) -> int:
        """Tokens that a text may have beside those of a state.

        Raises:
            UserError: ``language_model_too_short``.
        """
        if self.longest is None:
            return MAX_TOKENS
        prefix = 0 if self.prefix is None else self.prefix.shape[1]
        left = self.longest - state_tokens - prefix
        if left < FEWEST_TOKENS:
            raise UserError(
                "language_model_too_short",
                "the language model has too few positions for the tokens of a state and of a text",
                got=self.longest,
                expected=f"at least {state_tokens + prefix + FEWEST_TOKENS}",
                hint="choose fewer state tokens (`tokens` of the model)",
            )
        return min(MAX_TOKENS, left)

    def in_layer(self, name: str) -> bool:
        """Does a weight of this module belong to a transformer layer?"""
        return name.startswith(f"encoder.{self.architecture.layers}.")

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """What enters the first layer, (B, L, E), of tokens (B, L, W): with positions and layer norm, where the LLM has
        them there; mask (B, L).
        """
        order = in_order(mask)
        return sorted_by(self.architecture.embed(self.encoder, *_packed(tokens, mask, order)), order.argsort(1))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (B, L, E) of tokens (B, L, W) under the mask (B, L); bidirectional."""
        order = in_order(mask)
        return sorted_by(self._read(*_packed(tokens, mask, order)), order.argsort(1))

    def _read(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of packed tokens; those of the prefix, which are read before them, are left out."""
        if self.prefix is None:
            return self.architecture.read(self.encoder, tokens, mask)
        length = self.prefix.shape[1]
        # What stands there before the first layer is of no account.
        tokens = torch.cat([tokens.new_zeros(len(tokens), length, self.word_size), tokens], dim=1)
        mask = torch.cat([mask.new_ones(len(mask), length), mask], dim=1)
        with beginning_with(self._layers, self.prefix):
            return self.architecture.read(self.encoder, tokens, mask)[:, length:]

    @torch.no_grad()
    def begin_prefix(self, words: Tensor) -> None:
        """Has a prefix that begins as the activations of word embeddings (P, W): of real words, as in Li and Liang
        2021, section 7.4.
        """
        found = list[Tensor]()
        mask = words.new_ones(1, len(words))

        def noted(hidden: Tensor) -> Tensor:
            found.append(hidden[0].clone())
            return hidden

        with entering(self._layers, noted):
            self.architecture.read(self.encoder, words[None], mask.long())
        self.prefix = nn.Parameter(torch.stack(found))

    @property
    def _layers(self) -> list[nn.Module]:
        return list(attrgetter(self.architecture.layers)(self.encoder))


@contextmanager
def entering(layers: Iterable[nn.Module], change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What enters the layers (B, L, E) is changed, in the order in which they are called; some are, many times."""

    def changed(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if inputs:
            return (change(inputs[0]), *inputs[1:]), named
        return inputs, {**named, "hidden_states": change(named["hidden_states"])}

    handles = [layer.register_forward_pre_hook(changed, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def beginning_with(layers: Iterable[nn.Module], prefix: Tensor) -> Iterator[None]:
    """Whatever else enters the n-th layer that is called, its first tokens are ``prefix[n]`` (P, E):
    ``h_i = P[i]`` for places i of the prefix (Li and Liang 2021, Eq. 3).
    """
    left = iter(prefix)

    def replaced(hidden: Tensor) -> Tensor:
        first = next(left).to(hidden.dtype)
        return torch.cat([first.expand(len(hidden), -1, -1), hidden[:, len(first) :]], dim=1)

    with entering(layers, replaced):
        yield


def in_order(mask: Tensor) -> Tensor:
    """(B, L) places of real tokens, one after another, then those of padding."""
    return mask.argsort(dim=1, descending=True, stable=True)


def sorted_by(rows: Tensor, order: Tensor) -> Tensor:
    """Rows (B, L, E) in the order (B, L)."""
    return rows.gather(1, order[..., None].expand_as(rows))


def _packed(tokens: Tensor, mask: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    return sorted_by(tokens, order), mask.gather(1, order).long()


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the sequence (B, L, E) -> (B, E), padding excluded."""
    mask = mask.to(torch.promote_types(mask.dtype, hidden.dtype))
    return torch.einsum("ble,bl->be", hidden, mask) / mask.sum(1, keepdim=True)


@torch.no_grad()
def text_features(body: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, Tensor]:
    """A feature (E,) of every text, without special tokens. Two texts are read apart: neither depends on the other."""
    found, reader = dict[str, Tensor](), LLMBody(body)
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, **PLAIN, return_tensors="pt")["input_ids"].to(body.device)
        hidden = reader(reader.words(ids), torch.ones_like(ids))[0].mean(0)
        found[text] = hidden / hidden.std()
    return found
