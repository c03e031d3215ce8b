"""The reference text of embedder alignment: our own sentences about physics, equations and their computation.

Plain text in the package folder `reference_text`: one file a subject, one sentence a line. The subject is the
sentence's class label where an alignment method needs labels.
"""

from functools import cache
from importlib.resources import files
from typing import NamedTuple

_FOLDER = "reference_text"


class Sentence(NamedTuple):
    """One sentence and the physical subject it is about."""

    text: str
    subject: str


@cache
def subjects() -> tuple[str, ...]:
    """The subjects in alphabetical order: the class labels of `sentences`."""
    names = (entry.name for entry in files(__package__).joinpath(_FOLDER).iterdir())
    return tuple(sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt")))


@cache
def sentences() -> tuple[Sentence, ...]:
    """Every sentence, ordered by subject and then as written."""
    folder = files(__package__).joinpath(_FOLDER)
    return tuple(
        Sentence(line, subject)
        for subject in subjects()
        for line in folder.joinpath(f"{subject}.txt").read_text(encoding="utf-8").splitlines()
    )
