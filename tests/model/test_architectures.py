"""Tiny random models of every architecture through both operators, as from a folder of a user's."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import BertTokenizer, PreTrainedModel

from tests.model.test_ups import PAPER, given, state, step
from tests.small_models import SMALL, WORDS, make
from ups_server.errors import UserError
from ups_server.model.architectures import ARCHITECTURES
from ups_server.model.body import LLMBody, empty_body, pretrained_body, text_features
from ups_server.model.checkpoint import from_pretrained, save_pretrained
from ups_server.model.config import UPSConfig
from ups_server.model.lora import ATTENTION, adapted_layers
from ups_server.model.operator import UPSModel, randomise_body
from ups_server.train.config import Stage, TrainConfig
from ups_server.train.run import check_config
from ups_server.train.tuning import frozen_language_model

COUNT = len(WORDS) + 4
BERT = {
    "vocab_size": COUNT, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 96, "pad_token_id": 0,
}  # fmt: skip
ROBERTA = BERT | {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
LLAMA = BERT | {"num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 2, "eos_token_id": 3}
T5 = {"vocab_size": COUNT, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
CLIP = BERT | {"bos_token_id": 2, "eos_token_id": 3}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("AlbertModel", BERT | {"embedding_size": 8}),
    "bert": ("BertModel", BERT),
    "camembert": ("CamembertModel", ROBERTA),
    "clip": ("CLIPModel", {"text_config": CLIP, "vision_config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4}, "projection_dim": 8}),
    "clip_text_model": ("CLIPTextModel", CLIP),
    "deberta-v2": ("DebertaV2Model", BERT | {
        "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "embedding_size": 12, "type_vocab_size": 0}),
    "distilbert": ("DistilBertModel", {
        "vocab_size": COUNT, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 96}),
    "electra": ("ElectraModel", BERT | {"embedding_size": 8}),
    "gpt2": ("GPT2Model", {"vocab_size": COUNT, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96,
                           "bos_token_id": 2, "eos_token_id": 3}),
    "llama": ("LlamaModel", LLAMA),
    "mistral": ("MistralModel", LLAMA | {"sliding_window": 64}),
    "modernbert": ("ModernBertModel", BERT | {
        "local_attention": 8, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}),
    "mpnet": ("MPNetModel", ROBERTA),
    "mt5": ("MT5EncoderModel", T5),
    "qwen2": ("Qwen2Model", LLAMA),
    "qwen3": ("Qwen3Model", LLAMA),
    "roberta": ("RobertaModel", ROBERTA),
    "t5": ("T5Model", T5 | {"num_decoder_layers": 1}),
    "xlm-roberta": ("XLMRobertaModel", ROBERTA),
}  # fmt: skip
"""By `model_type`: the class that a folder was written by, and its settings."""


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user would have it."""
    return written(request.param, tmp_path_factory.mktemp(request.param))


def written(kind: str, folder: Path) -> Path:
    name, settings = TINY[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)
    model(model.config_class(**settings)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def tokens(body: LLMBody, length: int = 12) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(1, length, body.word_size)


@torch.no_grad()
def test_every_token_sees_every_other(folder: Path) -> None:
    body = LLMBody(pretrained_body(folder).eval())
    given = tokens(body)
    mask = torch.ones(1, given.shape[1])
    plain = body(given, mask)
    assert plain.shape == (1, 12, body.size)
    other = given.clone()
    other[:, -1] += torch.randn(body.word_size)
    # The first sees what comes last: there is no causal mask.
    assert (body(other, mask) - plain)[:, 0].abs().max() > 1e-5


@torch.no_grad()
def test_padding_wherever_it_is_changes_nothing(folder: Path) -> None:
    body = LLMBody(pretrained_body(folder).eval())
    given = tokens(body)
    real = torch.tensor([0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13])
    padded, mask = 3 * torch.randn(1, 16, body.word_size), torch.zeros(1, 16)
    padded[:, real], mask[:, real] = given, 1.0
    for whole in (body.embed, body.forward):
        expected = whole(given, torch.ones(1, 12))
        torch.testing.assert_close(whole(padded, mask)[:, real], expected, atol=1e-5, rtol=1e-4)


class Entered(Exception):
    """Carries what entered the first layer."""


@torch.no_grad()
def test_what_is_aligned_is_what_enters_the_first_layer(folder: Path) -> None:
    body = LLMBody(pretrained_body(folder).eval())
    first = next(part for name, part in body.named_modules() if body.in_layer(name) and name.endswith(".0"))
    entered = list[Tensor]()

    def note(_: object, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        entered.append(inputs[0] if inputs else named["hidden_states"])

    first.register_forward_pre_hook(note, with_kwargs=True)
    body(tokens(body), torch.ones(1, 12))
    torch.testing.assert_close(entered[0], body.embed(tokens(body), torch.ones(1, 12)))


@torch.no_grad()
def test_decoders_are_read_as_their_weights_say(folder: Path) -> None:
    """Hidden states are those of the library's own model, where that sees all tokens too or is told to."""
    encoder = pretrained_body(folder).eval()
    body = LLMBody(encoder)
    ids = torch.arange(20, 32)[None]
    ours = body(body.words(ids), torch.ones(1, 12))
    if body.architecture.model == "CLIPTextModel":
        # Its own forward pass has no mask to be given: of one token, nothing is masked.
        ids, ours = ids[:, :1], body(body.words(ids[:, :1]), torch.ones(1, 1))
    encoder.config.is_causal = False
    for part in encoder.modules():
        if hasattr(part, "is_causal"):
            part.is_causal = False
    theirs = encoder(input_ids=ids).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [SMALL, PAPER], ids=["ups-mini", "ups-paper"])
def test_forward_gradient_and_round_trip(folder: Path, config: UPSConfig, tmp_path: Path) -> None:
    model = make(config, folder)
    u, conditioned = state(2), given(2, config=config)
    out = step(model, u, conditioned)
    assert out.shape == u.shape
    assert out.isfinite().all()
    model(u, model.read(u, conditioned)).square().sum().backward()
    layers = {name: weight for name, weight in model.body.named_parameters() if model.body.in_layer(name)}
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in layers.values())
    save_pretrained(model, tmp_path / "model")
    # The language model is kept in half precision.
    loaded = from_pretrained(tmp_path / "model").operator
    torch.testing.assert_close(step(loaded, u, conditioned), out, atol=2e-2, rtol=2e-2)
    randomise_body(model, 1)
    assert (step(model, u, conditioned) - out).abs().max() > 1e-6


def test_texts_alone_and_fewer_layers(folder: Path) -> None:
    encoder = pretrained_body(folder, layers=1).eval()
    assert encoder.config.num_hidden_layers == 1
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    features = text_features(encoder, tokenizer, ["1d burgers", "2d advection"])
    assert all(feature.shape == (encoder.config.hidden_size,) for feature in features.values())
    assert (features["1d burgers"] - features["2d advection"]).abs().max() > 1e-3
    again = empty_body(folder, layers=1)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in encoder.state_dict().items()
    }


def test_attention_is_found_for_low_rank_adapters(folder: Path) -> None:
    model = make(SMALL, folder)
    found = [name for name, _ in adapted_layers(model) if name.startswith("body.")]
    assert found
    assert all(name.endswith(ATTENTION) and model.body.in_layer(name.removeprefix("body.")) for name in found)


def test_a_prefix_is_read_in_every_layer(folder: Path) -> None:
    """Other tokens in any layer change the answer; padding changes nothing; without it, it is as it was."""
    body = LLMBody(pretrained_body(folder).eval())
    given, mask = tokens(body), torch.ones(1, 12)
    plain = body(given, mask)
    with torch.no_grad():
        words = body.words(torch.arange(20, 25))
    body.begin_prefix(words)
    assert body.prefix is not None
    assert body.prefix.shape == (2, 5, body.size)
    torch.testing.assert_close(body.prefix[0], body.embed(words[None], torch.ones(1, 5))[0])
    with_prefix = body(given, mask)
    assert with_prefix.shape == plain.shape
    assert (with_prefix - plain).abs().max() > 1e-5
    with_prefix.square().sum().backward()
    assert body.prefix.grad is not None
    assert all(layer.abs().max() > 0 for layer in body.prefix.grad)
    padded, real = (
        torch.cat([given, 3 * torch.randn(1, 4, body.word_size)], dim=1),
        torch.cat([mask, torch.zeros(1, 4)], 1),
    )
    torch.testing.assert_close(body(padded, real)[:, :12], with_prefix, atol=1e-5, rtol=1e-4)
    body.prefix = None
    torch.testing.assert_close(body(given, mask), plain)


def test_layer_norms_are_found(folder: Path) -> None:
    model = make(SMALL, folder)
    found = [name for name in frozen_language_model(model, train_body=True) if name.startswith("body.encoder.")]
    assert len({name.rsplit(".", 1)[0] for name in found if model.body.in_layer(name.removeprefix("body."))}) >= 2
    assert all("norm" in name.lower() or ".ln_" in name for name in found)


def test_a_recipe_with_an_unsupported_one_is_refused_before_its_data_are_made(tmp_path: Path) -> None:
    transformers.XLNetConfig().save_pretrained(tmp_path)
    config = TrainConfig(name="other", families={}, stage1=Stage(), stage2=Stage(), language_model=tmp_path)
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert caught.value.code == "unsupported_language_model"


def test_an_unsupported_architecture_is_refused(tmp_path: Path) -> None:
    transformers.XLNetConfig().save_pretrained(tmp_path)
    for load in (pretrained_body, empty_body):
        with pytest.raises(UserError) as caught:
            load(tmp_path)
        assert (caught.value.code, caught.value.got) == ("unsupported_language_model", "xlnet")
        assert "t5" in str(caught.value.expected)


def test_a_folder_without_a_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        pretrained_body(tmp_path)
    assert caught.value.code == "not_a_language_model"
    written("bert", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        pretrained_body(tmp_path)
    assert caught.value.code == "not_a_language_model"


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    written("bert", tmp_path)
    config = transformers.BertConfig.from_pretrained(tmp_path, num_hidden_layers=3)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="language model") as caught:
        pretrained_body(tmp_path)
    assert "encoder.layer.2" in str(caught.value.got)


def test_texts_are_as_long_as_positions_allow(tmp_path: Path) -> None:
    written("bert", tmp_path)
    short = pretrained_body(tmp_path)
    assert LLMBody(short).most_words(4) == 64
    assert LLMBody(short).most_words(60) == 36
    with pytest.raises(UserError) as caught:
        LLMBody(short).most_words(90)
    assert caught.value.code == "language_model_too_short"


def test_all_architectures_are_tested() -> None:
    assert TINY.keys() == ARCHITECTURES.keys()
    assert all(issubclass(getattr(transformers, entry.model), PreTrainedModel) for entry in ARCHITECTURES.values())


def test_a_model_with_another_width_of_words(tmp_path: Path) -> None:
    model: UPSModel = make(PAPER, written("electra", tmp_path))
    assert (model.body.word_size, model.body.size) == (8, 16)
