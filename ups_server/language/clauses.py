"""Clauses of a description: where they end, what they deny, and what they say of size and direction."""

import re

SEPARATORS = re.compile(
    r"[.;:!?]\s+|\s*[,;&+]\s*(?:and |but |while |as |whereas |plus )?"
    r"|\s+(?:and|but|while|whereas|plus|together with|with|as|which|that|then|also)\s+|\s+-\s+",
    re.IGNORECASE,
)
DENIAL = re.compile(
    r"\b(no|not|never|without|neglect\w*|ignor\w*|absent|nothing|nor|neither|nobody|free of|leave out|left out"
    r"|instead of|in place of|rather than|doesn't|don't|zero)\b",
    re.IGNORECASE,
)
REPLACED = re.compile(r"\b(instead of|in place of|rather than|without|but not|free of)\b", re.IGNORECASE)
"""Deny what comes after them, not what stands before."""

SMALL = re.compile(
    r"\b(slow\w*|slight\w*|weak\w*|tiny|gentl\w+|faint\w*|small|little|mild\w*|bit|barely|gradual\w*)\b", re.IGNORECASE
)
LARGE = re.compile(
    r"\b(fast\w*|quick\w*|strong\w*|rapid\w*|powerful\w*|large|much|violent\w*|heav(?:y|ily)|vigorous\w*)\b",
    re.IGNORECASE,
)
LEFT = re.compile(r"\b(left\w*|west\w*|backwards?)\b", re.IGNORECASE)
LOSS = re.compile(
    r"\b(los[set]\w*|sink|recombin\w+|annihilat\w+|remov\w+|absor\w+|damp\w*|minus|destroy\w*|vanish\w*|disappear\w*"
    r"|consum\w+|collisions?|collide\w*)\b",
    re.IGNORECASE,
)


def clauses(text: str) -> list[str]:
    """The clauses of a description, those that only deny something left out.

    A clause that denies something after it has said something else keeps its beginning: "diffusion without drift".
    """
    found = []
    for part in SEPARATORS.split(text):
        clause = part.strip(" .,;:!?")
        before = REPLACED.split(clause)[0].strip(" .,;:!?")
        if clause and before and not DENIAL.search(before):
            found.append(before)
    return found


def stated_size(clause: str) -> tuple[str | None, tuple[float, float]]:
    """(the word that says so, part of the logarithmic range it stands for): "slowly" is the lower third."""
    for pattern, part in ((SMALL, (0.0, 1.0 / 3.0)), (LARGE, (2.0 / 3.0, 1.0))):
        if (match := pattern.search(clause)) is not None:
            return match.group(0).lower(), part
    return None, (0.0, 1.0)
