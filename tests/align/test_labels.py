from collections import Counter

from ups_server.align.text import reference_text

SENTENCES = reference_text().sentences


def test_ten_subjects_with_at_least_forty_sentences_each() -> None:
    counts = Counter(sentence.subject for sentence in SENTENCES)
    assert tuple(counts) == reference_text().subjects
    assert len(reference_text().subjects) == 10
    assert min(counts.values()) >= 40


def test_no_sentence_occurs_twice() -> None:
    texts = [sentence.text.casefold().strip(" .") for sentence in SENTENCES]
    assert len(set(texts)) == len(texts) >= 400


def is_plain(text: str) -> bool:
    """One line of printable ASCII, 8 to 40 words, from a capital to a full stop."""
    return (
        8 <= len(text.split()) <= 40
        and text.isascii()
        and text.isprintable()
        and text == text.strip()
        and text[0].isupper()
        and text.endswith(".")
    )


def test_sentences_are_plain_text_of_natural_length() -> None:
    assert [sentence for sentence in SENTENCES if not is_plain(sentence.text)] == []


def test_openings_vary() -> None:
    openings = Counter(" ".join(sentence.text.split()[:3]) for sentence in SENTENCES)
    assert openings.most_common(1)[0][1] <= 6
    assert len(openings) >= 0.8 * len(SENTENCES)
