"""The reference text that states are matched to: sentences by subject.

The default is our own: sentences about physics, equations and their computation, in the package folder
`reference_text`, one file a subject, one sentence a line. (The paper has the tokens of CoNLL-2003, news of 1996.)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from ups_server.errors import UserError

FEWEST_SENTENCES = 128
"""Of a text: distances between distributions are estimated from as many samples a side at least."""
_FOLDER = "reference_text"


class Sentence(NamedTuple):
    """One sentence and the subject it is about."""

    text: str
    subject: str


@dataclass(frozen=True)
class ReferenceText:
    """Sentences, ordered by subject and then as written."""

    sentences: tuple[Sentence, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        """In alphabetical order: the class labels of the sentences."""
        return tuple(sorted({sentence.subject for sentence in self.sentences}))

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(sentence.text for sentence in self.sentences)

    def about(self, subject: str) -> tuple[str, ...]:
        """The sentences of a subject."""
        return tuple(sentence.text for sentence in self.sentences if sentence.subject == subject)


@cache
def reference_text(path: Path | None = None) -> ReferenceText:
    """The text of a file, one sentence a line, or of a folder of such files, one a subject; default our own.

    Raises:
        UserError: ``reference_text_missing``, ``reference_text_unreadable``, ``reference_text_too_short``.
    """
    if path is None:
        return _read(_by_subject(files(__package__).joinpath(_FOLDER)))
    if not path.exists():
        raise UserError(
            "reference_text_missing", "there is no reference text here", got=str(path), expected="a file or a folder"
        )
    try:
        found = _read(_by_subject(path) if path.is_dir() else [path])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "reference_text_unreadable", f"{path.name} is no plain text in UTF-8", got=str(error)
        ) from error
    if len(found.sentences) < FEWEST_SENTENCES:
        raise UserError(
            "reference_text_too_short",
            "a reference text of so few sentences says little of its distribution",
            got=len(found.sentences),
            expected=f"at least {FEWEST_SENTENCES} lines, in a file or in the files *.txt of a folder",
        )
    return found


def _by_subject(folder: Traversable) -> list[Traversable]:
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".txt"))
    return sorted(found, key=lambda entry: entry.name)


def _read(entries: Iterable[Traversable]) -> ReferenceText:
    return ReferenceText(
        tuple(
            Sentence(line.strip(), entry.name.removesuffix(".txt"))
            for entry in entries
            for line in entry.read_text(encoding="utf-8").splitlines()
            if line.strip()
        )
    )
