"""Clauses of a description: where they end, what they deny, and what they say of size and direction."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ups_server.language.encoder import Activations

SENTENCES = re.compile(
    r"[.;:!?]\s+|\s*[,;]\s*(?:and |but |while |as |whereas |plus )?|\s+(?:but|while|whereas)\s+", re.IGNORECASE
)
"""Ends of the larger parts of a description, in which clauses are joined by "and", "with", "that"."""

SEPARATORS = re.compile(
    r"\s+(?:subject to|as well as|along with|together with|coupled (?:by|with)|balanced (?:by|against)|opposed by"
    r"|(?:regularised|regularized|stabilised|stabilized) by)\s+"
    r"|\s*[&+]\s*|\s+(?:and|plus|with|as|which|that|then|also|though|although|whose)\s+|\s+-\s+",
    re.IGNORECASE,
)
UNLIMITED = (
    r"(?:any |an? |more |upper )*(?:limit\w*|bound\w*|end\b|ending|ceiling|cap\b|check|restraint|room|space|food|place"
    r"|stopping|chang\w+|alter\w+|distort\w+|deform\w+|being (?:changed|altered|distorted|deformed))"
)
IDIOMS = re.compile(
    rf"\b(?:(?:no|without) {UNLIMITED}|nothing (?:stops|limits|in between|between|remains|is left)"
    r"|never (?:stop\w*|end\w*|run\w* out|chang\w+)|(?:not|cannot) (?:only|stay|last|remain|stop|end|change))",
    re.IGNORECASE,
)
"""Negations that say what happens: "without limit", "until there is no room"."""

DENIAL = re.compile(
    r"\b(no|not|never|without|neglect\w*|negligible|ignor\w*|absent|nothing|nor|neither|nobody|free of|leave out"
    r"|left out|omitted|switched off|instead of|in place of|rather than|doesn't|don't|zero)\b",
    re.IGNORECASE,
)
REPLACED = re.compile(
    rf"\b(?:instead of|in place of|rather than|without(?! {UNLIMITED})|but not|but no|free of)\b", re.IGNORECASE
)
"""Deny what comes after them, not what stands before."""

DENIED_TOGETHER = re.compile(
    r"\b(?:are|were) (?:all |both )?(?:neglect\w*|negligible|ignored|absent|zero|omitted|left out|switched off|not)\b",
    re.IGNORECASE,
)
"""Denies everything that was listed before it: "births and deaths are ignored"."""

SMALL = re.compile(
    r"\b(slow\w*|slight\w*|weak\w*|tiny|gentl\w+|faint\w*|small|little|mild\w*|bit|barely|gradual\w*)\b", re.IGNORECASE
)
LARGE = re.compile(
    r"\b(fast\w*|quick\w*|strong\w*|rapid\w*|powerful\w*|large|much|violent\w*|heav(?:y|ily)|vigorous\w*)\b",
    re.IGNORECASE,
)
LEFT = re.compile(r"\b(left(?:wards?)?|west\w*|backwards?|upstream)\b", re.IGNORECASE)
LOSS = re.compile(
    r"\b(los[set]\w*|sink|recombin\w+|annihilat\w+|remov\w+|absor\w+|damp\w*|minus|destroy\w*|vanish\w*|disappear\w*"
    r"|consum\w+|collisions?|collide\w*|gone|quench\w*|coagul\w+|dimeri\w+|subtract\w*|drag|decay\w*|kill\w*|meet\w*"
    r"|bimolecular\w*|pair\w*|encounters?)\b",
    re.IGNORECASE,
)
GAIN = re.compile(
    r"\b(source|plus|add\w*|gr[oe]w\w*|gain\w*|blow\w*|produc\w+|autocataly\w+|release\w*)\b", re.IGNORECASE
)
NEGATIVE = re.compile(
    r"\b(negative|anti-?diffus\w*|backwards? (?:heat|diffus\w*)|unstable|instabilit\w+|destabili\w+)\b", re.IGNORECASE
)
EDGES = " .,;:!?"


@dataclass(frozen=True)
class CutText:
    """A text cut in three ways.

    Attributes:
        clauses: the smallest parts, "it drifts" and "spreads" of "it drifts and spreads".
        segments: what stands between commas and full stops.
        denied: what is said to be missing.
    """

    clauses: tuple[str, ...]
    segments: tuple[str, ...]
    denied: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "CutText":
        return cls(tuple(clauses(text)), tuple(segments(text)), tuple(denied(text)))

    @property
    def texts(self) -> set[str]:
        """All parts."""
        return set(chain(self.clauses, self.segments, self.denied))

    def probabilities(self, logits: Mapping[str, Activations], terms: int) -> Activations:
        """(K,): that the description names each of the K `terms`, given the logits (K,) of every part.

        A term counts with the clause and with the segment that name it most clearly; what is denied is not named.
        """
        if not self.clauses:
            return np.zeros(terms, np.float32)
        clearest = [np.max([logits[part] for part in parts], axis=0) for parts in (self.clauses, self.segments)]
        found = _sigmoid((clearest[0] + clearest[1]) / 2.0)
        for part in self.denied:
            found = np.minimum(found, 1.0 - _sigmoid(logits[part]))
        result: Activations = found.astype(np.float32)
        return result

    def clearest(self, term: int, logits: Mapping[str, Activations]) -> str:
        """The clause that names a term most clearly."""
        return max(self.clauses, key=lambda clause: float(logits[clause][term]))


def _sigmoid(logits: Activations) -> Activations:
    result: Activations = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
    return result


def segments(text: str) -> list[str]:
    """The larger parts of a description; of a part that denies something, the clauses that do not."""
    parts = ((part.strip(EDGES), _stated(part)) for part in SENTENCES.split(text))
    return [" and ".join(stated) if _denies(part) else part for part, stated in parts if stated]


def clauses(text: str) -> list[str]:
    """The clauses of a description, those that only deny something left out.

    A clause that denies something after it has said something else keeps its beginning: "diffusion without drift".
    """
    return [clause for part in SENTENCES.split(text) for clause in _stated(part)]


def _stated(segment: str) -> list[str]:
    said = list[str]()
    for part in SEPARATORS.split(segment):
        before = REPLACED.split(part)[0].strip(EDGES)
        if DENIED_TOGETHER.search(part):
            said.clear()
        elif before and not _denies(before):
            said.append(before)
    return said


def denied(text: str) -> list[str]:
    """What is said to be missing after "without", "no", "instead of": "viscosity" of "Burgers without viscosity"."""
    found = []
    for segment in SENTENCES.split(text):
        for part in SEPARATORS.split(segment):
            after = [*REPLACED.split(part)[1:], *re.findall(r"\b(?:no|neither) (.*)", IDIOMS.sub("", part), re.I)]
            found += [said.strip(EDGES) for said in after if said.strip(EDGES)]
    return found


def _denies(part: str) -> bool:
    return DENIAL.search(IDIOMS.sub("", part)) is not None


def stated_size(clause: str) -> tuple[str | None, tuple[float, float]]:
    """(the word that says so, part of the logarithmic range it stands for): "slowly" is the lower third."""
    for pattern, part in ((SMALL, (0.0, 1.0 / 3.0)), (LARGE, (2.0 / 3.0, 1.0))):
        if (match := pattern.search(clause)) is not None:
            return match.group(0).lower(), part
    return None, (0.0, 1.0)
