"""Descriptions that the reader learns from: the wordings of `wordings/training.yaml`, varied and put together.

A wording becomes part of a clause with a subject, a degree and a frame around it; two or three of them become one
description, joined as people join them. What shares `SHARED` words in a row with a sentence of `KEPT` is left out.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ups_server.pde.equation import TERMS

WORDINGS = Path(__file__).resolve().parent / "wordings"
NAMES = tuple(TERMS)
SUBJECTS = (
    *("it", "the quantity", "the dye", "the concentration", "u", "the field", "a substance", "the population"),
    *("the wave", "heat", "a pulse", "the pollutant", "the signal", "a bump", "everything", "the tracer", "a cloud"),
    *("the profile", "the gas", "this", "each individual", "smoke", "the water", "the material", "plankton", "a drug"),
    *("the temperature", "the density", "the amplitude", "a species", "the price", "traffic", "the film", "a colony"),
)
DEGREES = ("slowly", "quickly", "gradually", "strongly", "weakly", "steadily", "simply", "gently", "rapidly")
STRENGTHS = ("weak", "strong", "slow", "fast", "slight", "mild", "pronounced", "some", "a little")
FRAMES = (
    *("{}", "{}", "{}", "with {}", "there is {}", "{} is present", "a model of {}", "{} only", "we include {}"),
    *("the model has {}", "subject to {}", "governed by {}", "{} at the same time", "{} in the medium", "including {}"),
)
REQUESTS = (
    *("{}", "{}", "{}", "solve {}", "please simulate {}", "I need {}", "show me {}", "{} in one dimension"),
    *("can you simulate {}", "how do I model {}", "which equation has {}", "what is the equation for {}"),
    *("please set up {}", "could you show {}", "I want {}", "consider {}", "we study {}", "{}, please", "{} again"),
)
PLACES = ("in the lab", "along the pipe", "in a thin tube", "on the ring", "in the water", "at noon", "all the time")
JOINTS = (
    *(" and ", " and ", ", ", ", and ", " with ", " plus ", " together with ", " as well as ", "; ", " while "),
    *(" balanced against ", " opposed by ", " followed by ", " in addition to ", " and at the same time "),
)
KEPT = ("test.jsonl", "validation.jsonl", "calibration.jsonl")
"""Whole sentences that training must not know."""
VARIANTS, COMPOSED = 3, 8000
SHARED = 4
"""Words in a row that training may not have in common with those."""


@dataclass(frozen=True)
class Wording:
    """One way to say it. `source` is equal for the variants of one line of the file, -1 for what is put together."""

    text: str
    terms: tuple[str, ...]
    source: int


@dataclass(frozen=True)
class Phrase:
    """A line of the file: a verb, noun, clause or adjective of a term, or the name of an equation."""

    kind: str
    text: str
    terms: tuple[str, ...]

    def varied(self, rng: random.Random) -> str:
        """The line as a clause of its own."""
        if self.kind == "verbs":
            return _with_subject(self.text, rng)
        if self.kind == "nouns":
            return rng.choice(FRAMES).format(_with_strength(self.text, rng))
        if self.kind == "adjectives":
            return f"{rng.choice(('a', 'the', 'some'))} {self.text} {_bare(rng.choice(SUBJECTS))}"
        return rng.choice(REQUESTS).format(self.text) if self.kind == "named" else self.text


def sentences(file: str = "test.jsonl") -> list[dict[str, Any]]:
    """Whole sentences with `text`, `terms` and `style`: of the test, of `validation.jsonl` or `calibration.jsonl`."""
    return [json.loads(line) for line in (WORDINGS / file).read_text(encoding="utf-8").splitlines()]


def training_wordings(seed: int = 0) -> list[Wording]:
    """Every line of the file in a few variants, and descriptions put together from two or three lines."""
    document = yaml.safe_load((WORDINGS / "training.yaml").read_text(encoding="utf-8"))
    rng = random.Random(seed)
    phrases = _phrases(document)
    found = list[Wording]()
    for source, phrase in enumerate(phrases):
        variants = 1 if phrase.kind in ("clauses", "sentences", "none") else VARIANTS
        found += [Wording(text, phrase.terms, source) for text in sorted({phrase.varied(rng) for _ in range(variants)})]
    composer = Composer(phrases, rng)
    found += [composer.description() for _ in range(COMPOSED)]
    kept = {run for file in KEPT for entry in sentences(file) for run in word_runs(entry["text"])}
    return [wording for wording in found if not kept & word_runs(wording.text)]


def _phrases(document: dict[str, Any]) -> list[Phrase]:
    found = [
        Phrase(kind, line, (name,)) for name, ways in document["terms"].items() for kind in ways for line in ways[kind]
    ]
    for kind in ("named", "sentences"):
        found += [Phrase(kind, line, tuple(entry["terms"])) for entry in document[kind] for line in entry["wordings"]]
    return [*found, *(Phrase("none", line, ()) for line in document["none"])]


class Composer:
    """Puts lines of the file together as people do."""

    def __init__(self, phrases: Sequence[Phrase], rng: random.Random) -> None:
        self._rng = rng
        self._by_term = {name: dict[str, list[str]]() for name in NAMES}
        for phrase in phrases:
            if phrase.kind in ("verbs", "nouns", "clauses", "adjectives"):
                self._by_term[phrase.terms[0]].setdefault(phrase.kind, []).append(phrase.text)
        self._equations = [phrase for phrase in phrases if phrase.kind == "named"]
        self._nothing = [phrase.text for phrase in phrases if phrase.kind == "none"]

    def description(self) -> Wording:
        """One description with all its terms."""
        ways = (self._listed, self._acting, self._qualified, self._extended, self._beside_nothing)
        text, terms = self._rng.choices(ways, (3, 3, 3, 1, 2))[0]()
        return Wording(text, tuple(name for name in NAMES if name in terms), -1)

    def _line(self, name: str, *kinds: str) -> str:
        rng, ways = self._rng, self._by_term[name]
        kind = rng.choice(kinds)
        text = rng.choice(ways[kind])
        return _with_strength(text, rng) if kind == "nouns" else text

    def _names(self, count: int) -> list[str]:
        return self._rng.sample(NAMES, count)

    def _joint(self) -> str:
        return self._rng.choice(JOINTS)

    def _listed(self) -> tuple[str, Sequence[str]]:
        """ "advection together with a linear sink" """
        names = self._names(self._rng.choice((2, 2, 3)))
        joined = self._line(names[0], "nouns")
        for name in names[1:]:
            joined += self._joint() + self._line(name, "nouns")
        return self._rng.choice(REQUESTS).format(joined), names

    def _acting(self) -> tuple[str, Sequence[str]]:
        """ "the dye drifts along and slowly fades" """
        rng, names = self._rng, self._names(self._rng.choice((2, 2, 3)))
        verbs = [_with_degree(self._line(name, "verbs"), rng) for name in names]
        joined = f"{rng.choice(SUBJECTS)}{rng.choice((' ', ' ', ' that ', ' which '))}{verbs[0]}"
        for verb in verbs[1:]:
            joined += rng.choice((" and ", ", ", ", and ", " while it ", " and then ", " but also ")) + verb
        return joined, names

    def _qualified(self) -> tuple[str, Sequence[str]]:
        """ "a decaying tracer spreads out", "the current takes it along with a constant death rate" """
        rng, (first, second) = self._rng, self._names(2)
        if rng.random() < 0.5:
            article, subject = rng.choice(("a", "the", "some", "any")), _bare(rng.choice(SUBJECTS))
            subject = f"{article} {self._line(first, 'adjectives')} {subject}"
            after = rng.choice((f" {self._line(second, 'verbs')}", f" with {self._line(second, 'nouns')}"))
            return subject + after, (first, second)
        clause, other = self._line(first, "clauses"), self._line(second, "clauses", "nouns")
        return f"{clause}{rng.choice((' and ', ', ', ' while ', ' with ', ', though '))}{other}", (first, second)

    def _extended(self) -> tuple[str, Sequence[str]]:
        """ "the KdV equation with linear friction" """
        equation, name = self._rng.choice(self._equations), self._names(1)[0]
        joint = self._rng.choice((" with ", " plus ", " and ", " with added ", " subject to "))
        return f"{equation.text}{joint}{self._line(name, 'nouns')}", (*equation.terms, name)

    def _beside_nothing(self) -> tuple[str, Sequence[str]]:
        """ "at room temperature the dye spreads out" """
        rng, name, nothing = self._rng, self._names(1)[0], self._rng.choice(self._nothing)
        said = rng.choice((f"{rng.choice(SUBJECTS)} {self._line(name, 'verbs')}", self._line(name, "clauses", "nouns")))
        return rng.choice((f"{nothing} {said}", f"{nothing}, {said}", f"{said}, {nothing}", f"{said} {nothing}")), (
            name,
        )


def word_runs(text: str) -> set[tuple[str, ...]]:
    """Every `SHARED` words in a row."""
    found = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(found[start : start + SHARED]) for start in range(len(found) - SHARED + 1)}


def targets(wordings: Sequence[Wording]) -> Tensor:
    """(N, K): one where a wording names a term."""
    return torch.tensor([[float(name in wording.terms) for name in NAMES] for wording in wordings])


def _with_subject(verb: str, rng: random.Random) -> str:
    verb = _with_degree(verb, rng)
    if rng.random() < 0.1:
        verb = f"{verb} {rng.choice(PLACES)}"
    return f"{rng.choice(SUBJECTS)} {verb}" if rng.random() < 0.6 else verb


def _with_degree(verb: str, rng: random.Random) -> str:
    if rng.random() > 0.3:
        return verb
    return f"{rng.choice(DEGREES)} {verb}" if rng.random() < 0.5 else f"{verb} {rng.choice(DEGREES)}"


def _with_strength(noun: str, rng: random.Random) -> str:
    return noun if rng.random() > 0.25 else f"{rng.choice(STRENGTHS)} {_bare(noun)}"


def _bare(noun: str) -> str:
    """Without its article."""
    return re.sub(r"^(a|an|the|each) ", "", noun)
