"""Prefix tuning: keys and values in front, by hand; what it is added to, and what is left without it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel

from tests.model.test_cross_modal import PATCHES, operator, state
from tests.model.test_ups import given
from tests.small_models import SMALL, make
from ups_server.errors import UserError
from ups_server.model.body import LLMBody
from ups_server.model.checkpoint import from_pretrained, save_pretrained
from ups_server.model.prefix import LENGTH, add_prefix, without_prefix
from ups_server.model.ups import UPS


def test_attention_has_keys_and_values_of_the_prefix() -> None:
    """One layer of BERT by hand: ``softmax(q [K_P; K]^T / sqrt(d)) [V_P; V]``, and nothing else has changed."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    body = LLMBody(BertModel(config, add_pooling_layer=False).eval(), prefix=3)
    assert body.prefix is not None
    torch.nn.init.normal_(body.prefix)
    tokens = torch.randn(2, 5, 8)
    layer: Any = body.encoder.get_submodule("encoder.layer.0")
    own, attention, front = layer.attention.self, layer.attention.output, body.prefix[0].expand(2, -1, -1)
    # Positions begin behind the prefix.
    padded = torch.cat([torch.zeros(2, 3, 8), tokens], dim=1)
    entered = body.embed(padded, torch.ones(2, 8))[:, 3:]
    whole = torch.cat([front, entered], dim=1)

    def heads(values: torch.Tensor) -> torch.Tensor:
        return torch.stack(values.split(4, dim=-1), dim=1)

    weights = heads(own.query(entered)) @ heads(own.key(whole)).mT / 2
    read = (weights.softmax(-1) @ heads(own.value(whole))).movedim(1, 2).flatten(2)
    hidden = attention.LayerNorm(attention.dense(read) + entered)
    expected = layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(hidden))) + hidden)
    torch.testing.assert_close(body(tokens, torch.ones(2, 5)), expected)


@torch.no_grad()
def test_an_operator_with_a_prefix_goes_round(language_model: Path, tmp_path: Path) -> None:
    model = operator(PATCHES, language_model)
    u, conditioned = state(2, 32), given(2, config=PATCHES)
    plain, texts = model(u, model.read(u, conditioned)), model.metadata.most
    assert add_prefix(model)
    assert not add_prefix(model)
    assert model.config.reading.prefix == LENGTH
    assert model.metadata.most <= texts
    with_prefix = model(u, model.read(u, conditioned))
    assert (with_prefix - plain).abs().max() > 1e-5
    save_pretrained(model, tmp_path / "model")
    loaded = from_pretrained(tmp_path / "model").operator
    torch.testing.assert_close(loaded(u, loaded.read(u, conditioned)), with_prefix, atol=2e-2, rtol=2e-2)
    with without_prefix(model):
        torch.testing.assert_close(model(u, model.read(u, conditioned)), plain)
        assert model.config.reading.prefix == 0
        assert "body.prefix" not in model.state_dict()
    torch.testing.assert_close(model(u, model.read(u, conditioned)), with_prefix)


def test_where_nothing_reads_it_there_is_none(language_model: Path) -> None:
    model = make(SMALL, language_model)
    assert isinstance(model, UPS)
    model.ignore_body()
    without = make(SMALL.changed(body=False), language_model)
    for refused in (model, without):
        with pytest.raises(UserError) as caught:
            add_prefix(refused)
        assert caught.value.code == "language_model_not_read"
        assert refused.config.reading.prefix == 0
    assert add_prefix(make(SMALL, language_model))


def test_it_needs_room(language_model: Path) -> None:
    model = operator(PATCHES, language_model)
    with pytest.raises(UserError) as caught:
        add_prefix(model, 80)
    assert caught.value.code == "language_model_too_short"
