"""Test sentences and training wordings are strangers to each other."""

from collections import Counter
from itertools import chain

import yaml

from benchmarks.language import NAMES, WORDINGS, sentences, training_wordings, word_runs


def lines() -> list[str]:
    """Of the file of training wordings."""
    document = yaml.safe_load((WORDINGS / "training.yaml").read_text(encoding="utf-8"))
    ways = [way for term in document["terms"].values() for way in term.values()]
    return list(chain(*ways, *(entry["wordings"] for entry in document["named"]), document["none"]))


def test_no_four_words_in_a_row_are_shared() -> None:
    known = {run for sentence in sentences() for run in word_runs(sentence["text"])}
    assert len(known) > 500
    assert not [text for text in lines() if known & word_runs(text)]
    assert not [wording.text for wording in training_wordings() if known & word_runs(wording.text)]


def test_there_are_enough_of_each() -> None:
    tested = sentences()
    assert len(tested) >= 200
    assert len({sentence["text"] for sentence in tested}) == len(tested)
    assert len({sentence["style"] for sentence in tested}) >= 4
    assert set(Counter(name for sentence in tested for name in sentence["terms"])) == set(NAMES)
    sources = Counter(name for name, _ in {(w.terms[0], w.source) for w in training_wordings() if len(w.terms) == 1})
    assert min(sources[name] for name in NAMES) >= 20, sources
