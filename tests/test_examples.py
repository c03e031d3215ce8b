"""Every example of the documentation runs as users run it, against a real server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import serving

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
SMALL = {
    "rollout": (["--points", "32", "--steps", "4"], r"true error .*nRMSE: 0\.\d+\n(?s:.*)rollout.png shows"),
    "ensemble": (["--points", "32", "--steps", "4", "--members", "4"], r"spread, (?s:.*)ensemble.png shows"),
    "finer_grid": (
        ["--points", "32", "--times", "2", "--steps", "3"],
        r"32 points became 64\n(?s:.*)interpolation: nRMSE 0\.\d+\nresolution-free: nRMSE 0\.\d+",
    ),
    "own_equation": (
        ["--trajectories", "8", "--max-steps", "3", "--tuning", "head"],
        r"8 trajectories are accepted\n(?s:.*)ups-mini-wave-\w+ from a wave it has never seen: nRMSE \d",
    ),
    "several": (["--points", "32", "--steps", "3", "--nu", "0.01", "0.1"], r"steepest slope (?s:.*)2 rollouts in"),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running.url


def test_each_example_is_run_here_and_says_how() -> None:
    assert sorted(SMALL) == sorted(path.stem for path in EXAMPLES.glob("*.py"))
    for name in SMALL:
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert f"python docs/examples/{name}.py" in text.split('"""')[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_examples(name: str, url: str, tmp_path: Path) -> None:
    options, told = SMALL[name]
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", "--url", url, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(told, done.stdout), done.stdout
    assert all(path.stat().st_size > 5000 for path in tmp_path.glob("*.png"))
