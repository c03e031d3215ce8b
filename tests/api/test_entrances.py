"""Every published layout through every entrance, and the table of `docs/formats.md`, which says what was found."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.entrances import BEGIN, END, ENTRANCES, Place, line, prepared, reasons, row, table, written
from tests.published_files import PUBLISHED, Published

QUICK = ("PDEBench: burgers", "MATLAB 5", "Zarr 3, folder")
"""Tried by `make test` too."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with prepared(tmp_path_factory.mktemp("entrances")) as found:
        yield found


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=[] if layout.name in QUICK else pytest.mark.slow) for layout in PUBLISHED],
    ids=lambda layout: layout.name,
)
def test_what_is_written_is_read_by_every_entrance(layout: Published, place: Place, page: str, tmp_path: Path) -> None:
    cells = row(layout, tmp_path / "file", place)
    assert line(layout.name, cells) in page.splitlines()


def test_the_table_has_every_layout_and_entrance_and_no_other(page: str) -> None:
    _, _, rest = page.partition(BEGIN)
    made, _, _ = rest.partition(END)
    lines = made.strip().splitlines()
    assert lines[0] == line("Layout", ENTRANCES)
    assert [entry.split(" | ")[0] for entry in lines[2:] if entry.startswith("|")] == [
        f"| {layout.name}" for layout in PUBLISHED
    ]
    assert lines[-len(reasons()) :] == [f"{number}. {why}" for number, why in enumerate(reasons(), 1)]


def test_the_page_is_written_between_its_marks(page: str) -> None:
    cells = {layout.name: ["✓"] * len(ENTRANCES) for layout in PUBLISHED}
    changed = written(page, table(cells))
    assert changed.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert changed.partition(END)[2] == page.partition(END)[2]
    assert f"{BEGIN}\n\n{table(cells)}\n\n{END}" in changed
