"""A small model around a small random language model: real code paths, seconds instead of minutes."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from ups_server.data.statistics import FamilyStatistics
from ups_server.model.body import load_tokenizer, pretrained_body
from ups_server.model.checkpoint import around
from ups_server.model.config import UPS_MINI, KnownFamily, UPSConfig
from ups_server.model.operator import UPSModel
from ups_server.pde import Family

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "1d", "2d", "burgers", "advection", "equation", "nu", "beta"]
WORDS += [mark + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789.=" for mark in ("", "##")] + [*"',-"]


def card(name: str = "1D Burgers' Equation", ndim: int = 1, slots: tuple[int, ...] = (0,)) -> KnownFamily:
    fields = tuple(f"field{slot}" for slot in slots)
    low, high = (-4.0,) * len(slots), (4.0,) * len(slots)
    statistics = FamilyStatistics(
        family="burgers", fields=fields, dt=0.05, n=32, trajectories=1,
        mean=(0.25,) * len(slots), std=(2.0,) * len(slots), increment_std=(0.5,) * len(slots), min=low, max=high,
    )  # fmt: skip
    return KnownFamily(
        dt=0.05, name=name, ndim=ndim, fields=fields, slots=slots, symbols={"nu": "Nu"}, statistics=statistics
    )


def card_of(equation: Family) -> KnownFamily:
    """The card of any family, as a model trained on it would have it."""
    slots = tuple(field.slot for field in equation.fields)
    count = len(equation.static_fields)
    plain = card(equation.name, equation.ndim, slots)
    statistics = plain.statistics.model_copy(
        update={
            "family": equation.id,
            "fields": tuple(field.name for field in equation.fields),
            "relative": tuple(field.name for field in equation.fields if field.relative),
            "static_mean": (0.0,) * count,
            "static_std": (1.0,) * count,
        }
    )
    return plain.model_copy(
        update={
            "fields": statistics.fields,
            "symbols": {coefficient.name: coefficient.symbol for coefficient in equation.coefficients},
            "static_fields": tuple(field.name for field in equation.static_fields),
            "solenoidal": equation.solenoidal,
            "parity": equation.parity,
            "static_parity": equation.static_parity,
            "odd": equation.odd,
            "statistics": statistics,
        }
    )


def write_language_model(folder: Path) -> Path:
    """A folder with a two-layer random BERT and a tiny vocabulary, in the Hugging Face layout."""
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=96,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def make(config: UPSConfig, language_model: Path, std: float = 0.05) -> UPSModel:
    """A model whose zero-initialised layers are filled, so that every path counts; little keeps it calm."""
    torch.manual_seed(1)
    model = around(config, pretrained_body(language_model), load_tokenizer(language_model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("body.") and parameter.abs().max() == 0:
                parameter.normal_(std=std)
    return model.eval()


SMALL = UPS_MINI.changed(hidden_channels=8, n_layers=2, n_modes=12, tokens=4, condition_size=16, resolution=32)


def write_parent(folder: Path, language_model: Path) -> Path:
    """A small model folder that knows advection only, with weights of no training."""
    from ups_server.model.checkpoint import save_pretrained

    known = card("1D Advection Equation").model_copy(update={"fields": ("u",), "symbols": {"beta": "Beta"}})
    config = SMALL.changed(name=folder.name, families={"advection": known})
    save_pretrained(make(config, language_model), folder)
    return folder
