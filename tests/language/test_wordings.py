"""Test sentences and training wordings are strangers to each other."""

from collections import Counter
from itertools import chain

import yaml

from benchmarks.descriptions import KEPT, NAMES, WORDINGS, sentences, training_wordings, word_runs


def lines() -> list[str]:
    """Of the file of training wordings."""
    document = yaml.safe_load((WORDINGS / "training.yaml").read_text(encoding="utf-8"))
    ways = [way for term in document["terms"].values() for way in term.values()]
    whole = (entry["wordings"] for kind in ("named", "sentences") for entry in document[kind])
    return list(chain(*ways, *whole, document["none"]))


def test_no_four_words_in_a_row_are_shared() -> None:
    known = {run for file in KEPT for sentence in sentences(file) for run in word_runs(sentence["text"])}
    assert len(known) > 1000
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


def test_sentences_to_choose_by_are_whole_and_varied() -> None:
    files = {file: sentences(file) for file in KEPT}
    texts = [entry["text"] for entries in files.values() for entry in entries]
    assert len(set(texts)) == len(texts)
    for file in ("validation.jsonl", "calibration.jsonl"):
        assert len(files[file]) >= 120
        assert len({entry["style"] for entry in files[file]}) >= 5
        assert {name for entry in files[file] for name in entry["terms"]} == set(NAMES)
        for entry in files[file]:
            assert entry["terms"] == [name for name in NAMES if name in entry["terms"]]


def test_descriptions_are_put_together_from_lines() -> None:
    found = training_wordings()
    assert found == training_wordings()
    together = [wording for wording in found if wording.source < 0]
    assert len(together) > 5000
    assert {len(wording.terms) for wording in together} >= {1, 2, 3}
