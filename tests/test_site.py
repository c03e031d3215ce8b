"""The site of documentation builds, whole and strictly; it needs nothing from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from docs.generate.gallery import PAGE, PICTURES, WIDTH, commands, shrink

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_BYTES = 120_000
"""Of one picture of the gallery."""
EXTERNAL = re.compile(r"""<(?:script|img|iframe)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//""")
"""What a browser would fetch from another host; links that a reader may follow are not among it."""


def build(repository: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`make docs` without the installation, into a folder of the test's."""
    pytest.importorskip("mkdocs", reason="`make install-all` installs what the site is built with")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(REPOSITORY, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there(site: Path) -> None:
    for page in (REPOSITORY / "docs").rglob("*.md"):
        assert (site / page.relative_to(REPOSITORY / "docs").with_suffix(".html")).exists(), page
    for made in ("index", "reference/http", "reference/python", "repository/models/ups-mini/index"):
        assert (site / f"{made}.html").exists(), made
    assert not (site / "generate").exists()


@pytest.mark.slow
def test_tables_hold_what_was_measured(site: Path) -> None:
    page = (site / "adapting.html").read_text(encoding="utf-8")
    for row in json.loads((REPOSITORY / "benchmarks" / "new_equations.json").read_text(encoding="utf-8")):
        assert f"{row['tuned']['one_step']:.2g} / {row['tuned']['rollout']:.2g}</td>" in page, row
    assert not [path for path in site.rglob("*.html") if "<!-- table:" in path.read_text(encoding="utf-8")]


@pytest.mark.slow
def test_the_reference_is_complete(site: Path) -> None:
    from ups_server.api.app import create_app
    from ups_server.client import Client
    from ups_server.settings import Settings

    http, python = ((site / "reference" / name).read_text("utf-8") for name in ("http.html", "python.html"))
    for path in create_app(Settings()).openapi()["paths"]:
        assert f" {path}</code>" in http, path
    for name in vars(Client):
        assert name.startswith("_") or f"<code>{name}</code>" in python, name


@pytest.mark.slow
def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert pages
    for page in pages:
        assert not EXTERNAL.search(page.read_text(encoding="utf-8")), page


@pytest.mark.slow
@pytest.mark.parametrize("target", ["absent.md", "rollouts.md#absent", "../absent.py"])
def test_a_link_that_leads_nowhere_is_an_error(target: str, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(REPOSITORY / "docs", copied / "docs")
    for path in REPOSITORY.iterdir():
        if path.name != "docs":
            (copied / path.name).symlink_to(path)
    with (copied / "docs" / "data.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[somewhere]({target})\n")
    done = build(copied, tmp_path / "site")
    assert done.returncode != 0
    assert target.removeprefix("rollouts.md") in done.stderr
    assert done.stderr.count("WARNING") + done.stderr.count("INFO    -  Doc file") == 1


def test_the_gallery_shows_what_its_commands_make(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = [name for name, _ in commands(text)]
    assert re.findall(r"\(pictures/gallery/([^)]+)\)", text) == made
    assert sorted(path.name for path in PICTURES.iterdir()) == sorted(made)
    assert all(path.stat().st_size < MOST_BYTES for path in PICTURES.iterdir())
    with Image.new("RGB", (2 * WIDTH, 300), "white") as large:
        large.paste((200, 0, 0), (0, 0, WIDTH, 300))
        large.save(tmp_path / "large.png")
    shrink(tmp_path / "large.png", tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as small:
        assert small.size == (WIDTH, 150)
        assert small.convert("RGB").getpixel((10, 10)) == (200, 0, 0)
