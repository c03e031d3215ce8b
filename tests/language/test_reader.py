"""Descriptions in words: clauses, the encoder, proposals."""

import json

import numpy as np
import pytest

from benchmarks.descriptions import sentences
from ups_server.catalog import shipped_folder
from ups_server.errors import UserError
from ups_server.language.clauses import clauses, denied, segments, stated_size
from ups_server.language.encoder import MAX_TOKENS, Encoder, body_weights
from ups_server.language.reader import PIECES, Bag, Reader, reader_of, understood
from ups_server.pde.equation import TERMS
from ups_server.pde.grammar import parse_equation
from ups_server.specs import EquationRequest

MODEL = shipped_folder() / "ups-mini"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return reader_of(MODEL)


def test_the_encoder_computes_what_the_library_does() -> None:
    import torch
    from transformers import AutoTokenizer

    from ups_server.model.body import empty_body

    folder = MODEL / "language_model"
    body = empty_body(folder).eval()
    body.load_state_dict({name: torch.tensor(w, dtype=torch.float32) for name, w in body_weights(MODEL).items()})
    encoder, tokenizer = Encoder.of_model(MODEL), AutoTokenizer.from_pretrained(folder)
    for text in ("a dye", "The Korteweg–de Vries equation, with u_xxx and naïve ∂u/∂x", "x" * 60):
        with torch.no_grad():
            expected = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(encoder.tokens(text), expected.numpy(), atol=2e-4)
        mean = expected.mean(0)
        last = encoder.layers(text)[-encoder.size :]
        np.testing.assert_allclose(2.0 * last, (mean / mean.norm()).numpy(), atol=1e-4)


def test_texts_are_read_at_once_as_one_by_one() -> None:
    encoder = Encoder.of_model(MODEL)
    texts = ["drift", "a dye that spreads in the water", "u_xx", "it decays"]
    for text, found in zip(texts, encoder.layers_of(texts), strict=True):
        np.testing.assert_allclose(found, encoder.layers(text), atol=1e-5)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-4)


def test_words_and_their_pieces_are_counted() -> None:
    bag = Bag.of(["it decays", "it spreads", "decays and spreads", "drift"])
    assert bag.words == ("decays", "it", "spreads")
    assert bag.counts("spreads, spreads")[2] == pytest.approx(1.0)
    assert not bag.counts("drift").any()
    assert bag.pieces("drift").shape == (PIECES,)
    assert bag.pieces("drifting") @ bag.pieces("drift") > 0.3 > bag.pieces("drift") @ bag.pieces("decay")
    assert np.linalg.norm(bag.features("drift it")) == pytest.approx(1.0, abs=1e-5)


def test_nothing_is_cut_silently(reader: Reader) -> None:
    for text in ("very " * (MAX_TOKENS + 1) + "diffusive", "spreading, " * 400):
        with pytest.raises(UserError) as caught:
            reader.propose(text)
        assert caught.value.code == "text_too_long"
        assert "at most" in str(caught.value.expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It drifts, spreads and decays.", ["It drifts", "spreads", "decays"]),
        ("Diffusion without drift; no source.", ["Diffusion"]),
        ("It moves but never mixes", ["It moves"]),
        ("drift + diffusion", ["drift", "diffusion"]),
        ("fourth-order smoothing instead of viscosity", ["fourth-order smoothing"]),
        ("?!", []),
        ("It wanders; births and deaths are ignored.", ["It wanders"]),
        ("It grows without any limit", ["It grows without any limit"]),
        ("They multiply until there is no room left", ["They multiply until there is no room left"]),
        ("Neither drift nor decay", []),
    ],
)
def test_clauses_that_only_deny_are_left_out(text: str, expected: list[str]) -> None:
    assert clauses(text) == expected


def test_segments_are_what_stands_between_commas() -> None:
    assert segments("It drifts and spreads, with decay.") == ["It drifts and spreads", "with decay"]
    assert segments("It drifts and spreads with no decay.") == ["It drifts and spreads"]


def test_what_is_denied_is_known() -> None:
    assert denied("Burgers without viscosity") == ["viscosity"]
    assert denied("It drifts, no decay, and spreads instead of moving") == ["decay", "moving"]
    assert denied("It grows without limit") == []


def test_the_example_of_the_documentation(reader: Reader) -> None:
    found = reader.propose("a dye carried to the right that slowly spreads and decays")
    assert [term.name for term in found.terms] == ["transport", "diffusion", "decay"]
    assert [term.sign for term in found.terms] == [-1, 1, -1]
    assert all(term.confidence > 0.5 for term in found.terms)
    slow = found.terms[1]
    low, high = TERMS["diffusion"].magnitude
    assert slow.stated == "slowly"
    assert low == pytest.approx(slow.range[0], rel=0.05)
    assert slow.range[0] < slow.coefficient < slow.range[1] < high
    assert found.equation is not None
    assert parse_equation(found.equation).names == ("transport", "diffusion", "decay")


def test_sizes_and_directions_are_those_that_are_stated() -> None:
    assert stated_size("it slowly spreads") == ("slowly", (0.0, 1 / 3))
    assert stated_size("rapid growth") == ("rapid", (2 / 3, 1.0))
    assert stated_size("it spreads") == (None, (0.0, 1.0))


def test_what_is_no_equation_is_abstained_from(reader: Reader) -> None:
    for text in (
        "What should I cook for dinner tonight?",
        "",
        "no diffusion",
        "My cat is asleep on the keyboard again.",
    ):
        found = reader.propose(text)
        assert found.abstained
        assert found.equation is None
        assert found.terms == []


def test_named_equations_are_words(reader: Reader) -> None:
    for text, names in (
        ("KdV", ["self_advection", "dispersion"]),
        ("the Fisher-KPP equation", ["diffusion", "logistic"]),
        ("Kuramoto-Sivashinsky", ["self_advection", "diffusion", "biharmonic"]),
        ("Allen-Cahn", ["diffusion", "bistable"]),
        ("the heat equation", ["diffusion"]),
    ):
        assert [term.name for term in reader.propose(text).terms] == names, text
    chaos = reader.propose("Kuramoto-Sivashinsky").equation
    assert chaos is not None
    parse_equation(chaos).check()


def test_symbols_and_words_have_one_answer() -> None:
    symbols = understood(EquationRequest(equation="u_t + u u_x = nu u_xx", coefficients={"nu": 0.01}))
    assert (symbols.family, symbols.abstained) == ("burgers", False)
    assert json.loads(symbols.model_dump_json())["terms"][0] == {
        "name": "self_advection",
        "sign": -1,
        "coefficient": -1.0,
    }
    words = understood(EquationRequest(description="viscous Burgers"))
    assert [term.name for term in words.terms] == ["self_advection", "diffusion"]
    assert words.family == "evolution_1d"


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("a cloud blown to the left", {"transport": 1}),
        ("smoke that is carried to the right and fades", {"transport": -1, "decay": -1}),
        ("diffusion and pair annihilation", {"diffusion": 1, "quadratic": -1}),
        ("diffusion and a source proportional to u squared", {"diffusion": 1, "quadratic": 1}),
        ("viscosity, hyperviscosity and self-advection", {"self_advection": -1, "diffusion": 1, "biharmonic": -1}),
        ("a source proportional to u cubed and diffusion", {"diffusion": 1, "cubic": 1}),
        ("Kuramoto-Sivashinsky", {"self_advection": -1, "diffusion": -1, "biharmonic": -1}),
        ("Burgers without viscosity", {"self_advection": -1}),
    ],
)
def test_signs_are_those_that_are_said(reader: Reader, text: str, signs: dict[str, int]) -> None:
    assert {term.name: term.sign for term in reader.propose(text).terms} == signs


def test_the_test_sentences_are_read_as_well_as_measured(reader: Reader) -> None:
    tested = sentences()
    found = [reader.propose(sentence["text"]) for sentence in tested]
    exact = [
        [term.name for term in proposal.terms] == sentence["terms"]
        for proposal, sentence in zip(found, tested, strict=True)
    ]
    answered = [not proposal.abstained for proposal in found]
    equations = [bool(sentence["terms"]) for sentence in tested]
    assert np.mean([a for a, is_one in zip(answered, equations, strict=True) if is_one]) >= 0.7
    assert np.mean([e for e, a in zip(exact, answered, strict=True) if a]) >= 0.8
    assert np.mean([a and not e for a, e in zip(answered, exact, strict=True)]) <= 0.1
