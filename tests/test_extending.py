"""What other packages add by entry points keeps the contracts that everything of this package keeps.

`tests/plugins` holds a package as pip installs it, code beside a dist-info folder: processes that have it on their path
find its entry points. `docs/extending.md` shows its code.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parent / "plugins"
PACKAGE = PLUGINS / "heat_plugin"


def run_with_plugins(repository: Path, *command: str | Path, more: Path | None = None) -> str:
    """What a Python process prints that finds the package (and the one in `more`)."""
    path = os.pathsep.join(str(folder) for folder in (more, PLUGINS, repository) if folder is not None)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


CONTRACTS = {
    "family": ("heat_1d", ["tests/pde/test_families.py", "tests/pde/test_solution.py", "tests/pde/test_bounds.py"]),
    "solver": ("mixed", ["tests/solvers/test_contract.py"]),
    "alignment": ("every_method or sentence", ["tests/align/test_mmd.py"]),
}


@pytest.mark.parametrize("kind", CONTRACTS)
def test_what_a_plugin_adds_keeps_the_contracts(kind: str, repository: Path) -> None:
    chosen, files = CONTRACTS[kind]
    output = run_with_plugins(
        repository, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", chosen, *files
    )
    assert re.search(r"\b[1-9]\d* passed", output), output


USES = """
import numpy as np
from pathlib import Path
from ups_server.align import ALIGNMENTS, aligns, mixes
from ups_server.catalog import Catalog
from ups_server.jobs.spec import AlignmentName
from ups_server.model.body import body_folder
from ups_server.pde import families, family
from ups_server.solvers.registry import load

assert list(families())[-1] != "heat_1d" and "heat_1d" in families(), "in the order of dimensions and ids"
card = Catalog(None).model("mixed")
assert card.kind == "builtin" and card.description == "Of the package heat-plugin 1.0." and "heat_1d" in card.families
assert load("mixed").name == "mixed"
assert (aligns("sentence"), mixes("sentence")) == (True, False) and "sentence" in ALIGNMENTS
assert AlignmentName("sentence") == "sentence"
assert (body_folder(Path("minilm")) / "config.json").is_file()
print("used")
"""


def test_every_kind_is_found_by_its_name(repository: Path) -> None:
    assert "used" in run_with_plugins(repository, "-c", USES)


def test_a_rollout_is_asked_of_a_plugin(repository: Path, tmp_path: Path) -> None:
    for solver in ("numerical", "mixed"):
        picture = tmp_path / f"{solver}.nc"
        run_with_plugins(
            repository, "-m", "ups_server.cli", "solve", "heat_1d", "--model", solver, "--resolution", "32",
            "--n-steps", "3", "-o", picture,
        )  # fmt: skip
        assert picture.is_file()


BROKEN = """
[ups_server.families]
broken = broken_plugin:Missing
burgers = heat_plugin.heat:Heat
number = os:sep

[ups_server.solvers]
numerical = heat_plugin.solver:Mixed
unfinished = os:sep
"""

SURVIVES = """
import pytest
from ups_server.errors import UserError
from ups_server.pde import families
from ups_server.solvers.classical import Numerical
from ups_server.solvers.registry import load

assert type(families()["burgers"]).__name__ == "Burgers"
assert isinstance(load("numerical"), Numerical)
with pytest.raises(UserError) as caught:
    load("unfinished")
assert caught.value.code == "broken_plugin" and "broken-plugin 0.1" in caught.value.message
print("survived")
"""


def test_a_broken_plugin_takes_nothing_down(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken_plugin-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text(BROKEN)
    output = run_with_plugins(repository, "-c", SURVIVES, more=tmp_path)
    assert "survived" in output
    assert "broken-plugin 0.1" in output, "the log says what was left out"


@pytest.mark.parametrize("path", [path for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"])
def test_the_documentation_shows_the_code_that_is_tested(path: Path, repository: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / "extending.md").read_text("utf-8"), re.S)
    assert path.read_text(encoding="utf-8") in blocks


def test_the_documentation_shows_the_entry_points(repository: Path) -> None:
    text = (repository / "docs" / "extending.md").read_text(encoding="utf-8")
    registered = (PLUGINS / "heat_plugin-1.0.dist-info" / "entry_points.txt").read_text(encoding="utf-8")
    for group, name, value in re.findall(r"\[(.+)\]\n(\w+) = (\S+)", registered):
        assert f'[project.entry-points."{group}"]\n{name} = "{value}"' in text
