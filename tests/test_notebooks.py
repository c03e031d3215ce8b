"""The notebooks run from top to bottom as their readers run them, against a real service; kept without output."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import serving

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "docs" / "notebooks").glob("*.ipynb"))
SHOWN = {
    "first-rollout": (2, "true error of the whole rollout: 0.0"),
    "own-file": (1, "error of standing still, one step: 0.1"),
    "equation": (2, "ill_posed"),
    "adaptation": (1, "'state': 'succeeded'"),
}
"""How many pictures a notebook shows at least, and what it prints."""
MOST_S = 120
"""Of one cell, on a busy machine."""


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running.url


def test_each_is_known_here() -> None:
    assert sorted(SHOWN) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_kept_without_output(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert set(document["metadata"]) <= {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    monkeypatch.setenv("UPS_URL", url)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=MOST_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures, text = SHOWN[path.stem]
    shown = outputs(notebook)
    assert sum("image/png" in output.get("data", {}) for output in shown) >= pictures
    assert text in "".join(output.get("text", "") for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr"]
