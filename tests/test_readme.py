"""The blocks of the README and of the guides do what they say, against a real server."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import serving
from ups_server.cli.serve import EXAMPLE, curl_line

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
URL = "http://127.0.0.1:8000"
MOST_LINES = 150
"""Of the README: what does not fit is a page of docs/."""


def blocks(language: str) -> list[str]:
    """Different blocks of all pages, in the order of pages."""
    found = dict.fromkeys(
        text
        for page in PAGES
        for name, text in re.findall(
            r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        if name == language
    )
    return list(found)


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running service."""
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running.url


def test_the_example_is_one_everywhere() -> None:
    (curl,) = [block for block in blocks("sh") if block.startswith("curl")]
    words = shlex.split(curl)
    assert json.loads(words[words.index("-d") + 1]) == EXAMPLE
    assert json.loads(shlex.split(curl_line(URL))[-1]) == EXAMPLE


@pytest.mark.slow
def test_the_curl_line_returns_a_rollout(server: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    (curl,) = [block for block in blocks("sh") if block.startswith("curl")]
    done = run_shell(curl.replace(URL, server), tmp_path)
    answer = json.loads(done)
    assert answer["family"] == "burgers"
    assert len(answer["data"]) == len(answer["times"]) == 21
    assert len(answer["data"][0]) == 128


@pytest.mark.slow
@pytest.mark.parametrize("block", [text for text in blocks("sh") if not text.startswith("curl")])
def test_shell_blocks(block: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if URL in block:
        block = block.replace(URL, request.getfixturevalue("server"))
    run_shell(block, tmp_path)
    outputs = re.findall(r"-o (\S+)", block)
    assert outputs
    assert all((tmp_path / name).stat().st_size > 0 for name in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks(block: str, server: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", block.replace(URL, server)], check=True, cwd=tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_commands_and_targets_exist(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}"
    for path in re.findall(r"(?<![\w/])(?:models|benchmarks|docker)/[\w./-]+\w", text):
        assert (REPOSITORY / path).exists(), path


def run_shell(script: str, folder: Path) -> str:
    """Runs a block with `ups` being this checkout's command."""
    command = f'ups() {{ {shlex.quote(sys.executable)} -m ups_server.cli "$@"; }}\n{script}'
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
