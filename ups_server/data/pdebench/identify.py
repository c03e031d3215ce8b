"""Which family a file of known structure holds: user, attributes and name must agree."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ups_server.data.pdebench.card import CARDS, Card
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.registry import known_families

FAMILY = "family"
"""Attribute that files of our own carry: the family's id."""


def named_card(file_name: str, told: Mapping[str, str | None], cards: Iterable[Card]) -> Card | None:
    """The card that somebody names, whatever the structure says; None where nobody does."""
    names = {family for family in told.values() if family is not None}
    names |= {card.family for card in CARDS if card.name_coefficients(file_name) is not None}
    return next((card for card in cards if card.family in names), None)


@dataclass(frozen=True)
class Choice:
    """The card of a file.

    Attributes:
        guessed_from: what alone suggests it, where nobody says it; None where somebody does.
    """

    card: Card
    guessed_from: str | None = None


def choose_card(
    file_name: str, candidates: list[Card], told: Mapping[str, str | None], keys: Iterable[str] = ()
) -> Choice:
    """The one card of `candidates` (those that fit the structure) that all evidence points to.

    Args:
        told: who says so (a phrase for the message) -> family id, None where silent; the first is the user.
        keys: lower-case attribute names; their set decides only where nobody else speaks.

    Raises:
        UserError: ``family_mismatch`` or ``family_unknown``.
    """
    voices = {who: family for who, family in told.items() if family is not None}
    by_name = [card.family for card in CARDS if card.name_coefficients(file_name) is not None]
    if len(by_name) == 1:
        voices["the file's name"] = by_name[0]
    if not voices:
        matching = [c for c in candidates if c.attributes and {a.lower() for a in c.attributes.values()} == set(keys)]
        if len(matching) == 1:
            return Choice(
                matching[0], f"the attribute{'s' if len(set(keys)) > 1 else ''} {', '.join(sorted(keys))} alone"
            )
        raise UserError(
            "family_unknown",
            f"{file_name} does not say which equation it holds",
            expected=[card.family for card in candidates],
            hint="name the family",
        )
    if len(set(voices.values())) > 1:
        raise UserError("family_mismatch", f"{file_name} is said to be of several families", got=voices)
    chosen = next(iter(voices.values()))
    for card in candidates:
        if card.family == chosen:
            return Choice(card)
    raise UserError(
        "family_mismatch",
        f"{file_name} is not laid out as files of {chosen} are",
        got=chosen,
        expected=[card.family for card in candidates],
    )


def family_of(card: Card) -> Family:
    """The family of a card, solved here or only described.

    Raises:
        UserError: ``unknown_family``: PDEBench publishes it, this installation does not know it.
    """
    if card.family not in known_families():
        raise UserError("unknown_family", f"{card.family} is not among the families known here", got=card.family)
    return known_families()[card.family]


def same_number(first: float, second: float) -> bool:
    """Equal as far as file names and float32 attributes tell."""
    return abs(first - second) <= 1e-5 * max(abs(first), abs(second))


def merge_coefficients(
    family: Family, required: Iterable[str], told: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """All coefficients of the family from several voices that must agree.

    Args:
        required: those the file or the user must tell; the others default.
        told: who says so -> coefficients.

    Raises:
        UserError: ``coefficient_mismatch``, ``coefficient_missing`` and those of `Family.complete`.
    """
    known: dict[str, float] = {}
    for who, values in told.items():
        complete = family.complete(values)
        for name in {canonical(family, key) for key in values}:
            if name in known and not same_number(known[name], complete[name]):
                raise UserError(
                    "coefficient_mismatch",
                    f"{who} and the rest disagree about {name}",
                    got=complete[name],
                    expected=known[name],
                )
            known.setdefault(name, complete[name])
    missing = [name for name in required if canonical(family, name) not in known]
    if missing:
        raise UserError(
            "coefficient_missing", f"the file does not say {' and '.join(missing)}", hint="give the coefficients"
        )
    return family.complete(known)


def canonical(family: Family, key: str, unknown: str = "") -> str:
    """The coefficient's own name for one of its spellings."""
    spelt = (c.name for c in family.coefficients if key.lower() in {alias.lower() for alias in (c.name, *c.aliases)})
    return next(spelt, unknown)


def not_told(family: Family, told: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The coefficients that nobody names."""
    named = {canonical(family, key, key) for names in told for key in names}
    return tuple(coefficient.name for coefficient in family.coefficients if coefficient.name not in named)
