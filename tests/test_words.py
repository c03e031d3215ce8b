"""Standard terms: words that only this project knew stay away from names and prose."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PRIVATE = {
    "landing": "in-flight step",
    "landed": "in-flight step",
    "flight": "in-flight step",
    "ongoing": "batching",
    "residents": "model cache",
    "observed_here": "in-process",
    "ObservedHere": "in-process",
    "carriers": "advection velocity",
    "retain": "mean correction",
    "chained": "concat",
    "heard": "say what the language model does",
    "unheard": "say what the language model does",
    "silent": "say what the language model does",
}
"""Word: what stands for it. "in-flight" is the standard word."""
STORED = ("conditioner.retain.",)
"""Names of weights in files of earlier versions."""


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    found = [Path(line) for line in listed.splitlines()]
    return [
        path for path in found if path.suffix in (".py", ".md") and path.name not in ("CHANGELOG.md", "test_words.py")
    ]


@pytest.mark.parametrize("word", PRIVATE)
def test_private_words_are_absent(word: str) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout")
    pattern = re.compile(rf"(?<!in[-_ ])(?<![A-Za-z]){word}(?![A-Za-z])")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate((REPOSITORY / path).read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line) and not any(stored in line for stored in STORED)
    ]
    assert not found, f"say {PRIVATE[word]!r} instead:\n" + "\n".join(found)
