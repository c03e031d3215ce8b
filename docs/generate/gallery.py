"""Makes the pictures of `docs/gallery.md` by the commands that stand there, and makes them small.

python -m docs.generate.gallery
"""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

PAGE = Path(__file__).resolve().parent.parent / "gallery.md"
PICTURES = PAGE.parent / "pictures" / "gallery"
WIDTH = 900
COLOURS = 64
"""Enough for one colour map beside black on white."""


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """(file, words after `ups`) of every command of the page."""
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            _, *words = shlex.split(line)
            yield words[words.index("-o") + 1], words


def shrink(source: Path, target: Path) -> None:
    """A picture as a small file: narrower, with few colours."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDTH, 2 * WIDTH))
    small.quantize(COLOURS).save(target, optimize=True)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, words in commands(PAGE.read_text(encoding="utf-8")):
            subprocess.run([sys.executable, "-m", "ups_server.cli", *words, "-o", str(Path(folder) / name)], check=True)
            shrink(Path(folder) / name, PICTURES / name)


if __name__ == "__main__":
    main()
