"""The architectures of language models that can stand in an operator, by Hugging Face's `model_type`.

What they differ in: the class, what they make of word embeddings before the first layer, where their positions and
layers are, and, of those that write text, the causal mask, which is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ups_server.errors import UserError

ModelCall = Callable[[Any, Tensor, Tensor], Tensor]
"""Of a model, its tokens (B, L, W) and their mask (B, L), integers, real tokens before padding: (B, L, E)."""


def _embeddings(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Word, position and type embeddings with their layer norm."""
    embedded: Tensor = encoder.embeddings(inputs_embeds=tokens)
    return embedded


def _distilled(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    embedded: Tensor = encoder.embeddings(None, tokens)
    return embedded


def _widened(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    embedded: Tensor = encoder.encoder.embedding_hidden_mapping_in(_embeddings(encoder, tokens, mask))
    return embedded


def _projected(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    embedded = _embeddings(encoder, tokens, mask)
    if hasattr(encoder, "embeddings_project"):
        embedded = encoder.embeddings_project(embedded)
    return embedded


def _masked(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    embedded: Tensor = encoder.embeddings(inputs_embeds=tokens, mask=mask)
    return embedded


def _with_positions(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    embedded: Tensor = tokens + encoder.wpe(positions)
    return embedded


def _as_they_are(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens


def _encoded(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    hidden: Tensor = encoder(inputs_embeds=tokens, attention_mask=mask).last_hidden_state
    return hidden


def _uncaused(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """The hidden states of a model that writes text, every token seeing all others."""
    hidden: Tensor = encoder(
        inputs_embeds=tokens, attention_mask=_seen_by_all(tokens, mask), use_cache=False
    ).last_hidden_state
    return hidden


def _clip(encoder: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    inner = encoder.encoder(
        inputs_embeds=_embeddings(encoder, tokens, mask), attention_mask=_seen_by_all(tokens, mask)
    ).last_hidden_state
    hidden: Tensor = encoder.final_layer_norm(inner)
    return hidden


def _seen_by_all(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, 1, L, L) what is added to attention scores: a mask of this shape takes the place of the causal one."""
    added = tokens.new_zeros(mask.shape).masked_fill(mask == 0, torch.finfo(tokens.dtype).min)
    return added[:, None, None].expand(-1, 1, mask.shape[1], -1)


@dataclass(frozen=True)
class Architecture:
    """One kind of language model.

    Attributes:
        model: name of its class in `transformers`.
        layers: where its layers are in it.
        positions: where its table of absolute positions is; empty where positions are relative.
        embed: what enters the first layer. read: the last hidden states.
        part: of the class, that is the body; empty where it is all of it.
    """

    model: str
    layers: str
    positions: str
    embed: ModelCall = _embeddings
    read: ModelCall = _encoded
    part: str = ""


_BERT = Architecture("BertModel", "encoder.layer", "embeddings.position_embeddings")
_T5 = Architecture("T5EncoderModel", "block", "", _as_they_are, part="encoder")
_LLAMA = Architecture("LlamaModel", "layers", "", _as_they_are, _uncaused)
_CLIP = Architecture("CLIPTextModel", "encoder.layers", "embeddings.position_embedding", _embeddings, _clip)

ARCHITECTURES: dict[str, Architecture] = {
    "albert": replace(_BERT, model="AlbertModel", layers="encoder.albert_layer_groups", embed=_widened),
    "bert": _BERT,
    "camembert": replace(_BERT, model="CamembertModel"),
    "clip": _CLIP,
    "clip_text_model": _CLIP,
    "deberta-v2": replace(_BERT, model="DebertaV2Model", embed=_masked),
    "distilbert": replace(_BERT, model="DistilBertModel", layers="transformer.layer", embed=_distilled),
    "electra": replace(_BERT, model="ElectraModel", embed=_projected),
    "gpt2": Architecture("GPT2Model", "h", "wpe", _with_positions, _uncaused),
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, model="MistralModel"),
    "modernbert": Architecture("ModernBertModel", "layers", ""),
    "mpnet": replace(_BERT, model="MPNetModel"),
    "mt5": replace(_T5, model="MT5EncoderModel"),
    "qwen2": replace(_LLAMA, model="Qwen2Model"),
    "qwen3": replace(_LLAMA, model="Qwen3Model"),
    "roberta": replace(_BERT, model="RobertaModel"),
    "t5": _T5,
    "xlm-roberta": replace(_BERT, model="XLMRobertaModel"),
}


def architecture_of(model_type: str) -> Architecture:
    """Raises UserError ``unsupported_language_model``."""
    if model_type not in ARCHITECTURES:
        raise UserError(
            "unsupported_language_model",
            "a language model of this architecture cannot stand in an operator",
            got=model_type,
            expected=sorted(ARCHITECTURES),
            hint="choose the folder of one of these",
        )
    return ARCHITECTURES[model_type]
