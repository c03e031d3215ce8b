"""What is installed, pinned and shipped agrees."""

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_MODEL_BYTES = 60 * 2**20


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


@pytest.fixture(scope="module")
def pinned() -> dict[str, Version]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    entries = [Requirement(line) for line in lines if not line.startswith("#")]
    versions: dict[str, Version] = {}
    for entry in entries:
        (specifier,) = entry.specifier
        assert specifier.operator == "==", f"{entry} is not pinned"
        versions[canonicalize_name(entry.name)] = Version(specifier.version)
    return versions


def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras) if not line.startswith("ups-server")]


def test_every_dependency_is_pinned_inside_its_range(project: dict[str, Any], pinned: dict[str, Version]) -> None:
    for requirement in requirements(project):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{name} {pinned[name]}"


def test_the_environment_holds_what_is_pinned(pinned: dict[str, Version]) -> None:
    for name, expected in pinned.items():
        try:
            installed = Version(version(name))
        except PackageNotFoundError:
            continue  # a dependency on other platforms or Python versions only
        assert installed.public == expected.public, name


def test_constraints_name_nothing_of_one_machine() -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"@|file:|\+", text)


def test_the_version_is_the_packages(project: dict[str, Any]) -> None:
    import ups_server

    assert project["dynamic"] == ["version"]
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", changes, re.MULTILINE)
    releases = [re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)", heading) for heading in headings]
    assert None not in releases, headings
    dated = [(Version(release[1]), release[2]) for release in releases if release]
    assert dated == sorted(dated, reverse=True), "the latest release first"
    assert str(dated[0][0]) == ups_server.__version__
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], str(citation["date-released"])) == (ups_server.__version__, dated[0][1])
    for (newer, _), (older, _) in itertools.pairwise(dated):
        assert f"### From {older}: what scripts must change" in changes, f"how to go from {older} to {newer}"


def test_containers_agree_with_the_makefile() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    (index,) = set(re.findall(r"--extra-index-url (\S+)", makefile))
    assert f'"--extra-index-url {index}"' in dockerfile
    compose = yaml.safe_load((REPOSITORY / "docker/compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"].values()
    built = {service["image"]: service["build"]["args"]["TORCH"] for service in services if "build" in service}
    assert sorted(built.values()) == ["cpu", "cuda"]
    assert {service["image"] for service in services} <= {*built, "postgres:17"}
    for service in services:
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "published on loopback only"
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", dockerfile, flags=re.MULTILINE)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, flags=re.MULTILINE)
    for name in " ".join(copied).split():
        assert (REPOSITORY / name).exists(), f"the Dockerfile copies {name}"
    subprocess.run(["sh", "-n", REPOSITORY / "docker/entrypoint"], check=True)
    assert os.access(REPOSITORY / "docker/entrypoint", os.X_OK)


def test_ci_runs_everything() -> None:
    script = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    assert all(f"make {target}" in script for target in ("test-all", "lint", "types"))
    assert os.access(REPOSITORY / ".ci/run", os.X_OK)


def test_licences() -> None:
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    notice = (REPOSITORY / "NOTICE").read_text(encoding="utf-8")
    assert "all-MiniLM-L6-v2" in notice
    assert "CHANGED" in notice


def test_the_shipped_model_is_self_contained() -> None:
    from ups_server.catalog import Catalog, shipped_folder
    from ups_server.model.config import UPS_MINI

    card = Catalog().model("ups-mini")
    folder = Path(card.source)
    assert folder.parent == shipped_folder().resolve()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_MODEL_BYTES
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".md", ".yaml"}, "no pickle"
    assert card.version == str(UPS_MINI.version)
    lines = {"advection", "burgers", "diffusion_sorption", "compressible_ns_1d"}
    planes = {"shallow_water", "compressible_ns_2d", "incompressible_ns_2d"}
    assert lines | planes == set(card.families)
    held_out = {"diffusion_reaction_1d", "diffusion_reaction_2d"}
    assert not held_out & set(json.loads((folder / "config.json").read_text())["families"])
    assert card.readme, "a shipped model has a card"


def test_the_base_is_light(project: dict[str, Any]) -> None:
    base = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert not base & {"torch", "transformers", "neuraloperator", "fastapi", "uvicorn", "sqlalchemy", "tensorboard"}
    names = {"all", "model", "serve", "train", "postgres", "video", "ray", "slurm", "s3", "remote", "tracing"}
    assert project["optional-dependencies"].keys() == names | {"docs", "test"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run(pip, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the base of the wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", str(REPOSITORY / "constraints.txt"), str(wheel)], check=True)
    return folder / "bin"


def run(*words: Any, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_base_runs_without_torch(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "ups", "--help", cwd=tmp_path)
    assert (shown.returncode, "solve" in shown.stdout) == (0, True), shown.stderr
    found = run(installed / "python", "-c", "import torch", cwd=tmp_path)
    assert "ModuleNotFoundError" in found.stderr
    solved = run(
        installed / "ups", "solve", "burgers", "--method", "numerical", "--n-steps", "1", "-o", "a.nc", cwd=tmp_path
    )
    assert solved.returncode == 0, solved.stderr
    assert (tmp_path / "a.nc").is_file()
    for words, extra in ((["serve"], "serve"), (["jobs", "list", "--data-dir", "."], "serve")):
        refused = run(installed / "ups", *words, cwd=tmp_path)
        assert (refused.returncode, f"ups-server[{extra}]" in refused.stderr) == (2, True), refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_script_elsewhere_knows_what_every_method_of_the_client_returns(installed: Path, tmp_path: Path) -> None:
    from ups_server.client import Client

    names = [name for name in dir(Client) if not name.startswith("_")]
    lines = ["from ups_server.client import Client", *(f"reveal_type(Client.{name})" for name in names)]
    (tmp_path / "script.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--no-incremental"]
    found = run(*mypy, "--python-executable", installed / "python", "script.py", cwd=tmp_path)
    assert found.returncode == 0, found.stdout
    revealed = re.findall(r"Revealed type is \"def (.*)\"", found.stdout)
    assert len(revealed) == len(names), found.stdout
    returned = {name: kind.rpartition(") -> ")[2] for name, kind in zip(names, revealed, strict=True) if "->" in kind}
    assert not {name: kind for name, kind in returned.items() if "Any" in kind}
    nothing = {"close", "delete_file", "delete_model", "delete_rollout", "download", "download_data"}
    assert set(names) - returned.keys() == nothing, "of what returns None, mypy shows no arrow"


@pytest.mark.slow
def test_the_wheel_carries_code_and_models(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert {"ups_server/py.typed", "ups_server/cli/serve.py", "ups_server/_models/README.md"} <= names
    for path in (REPOSITORY / "models").rglob("*"):
        if path.is_file():
            assert f"ups_server/_models/{path.relative_to(REPOSITORY / 'models').as_posix()}" in names
    for path in (REPOSITORY / "ups_server").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(REPOSITORY).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "data/", "benchmarks/"))]
    large = {name for name, size in sizes.items() if size > 2**20}
    assert all(name.startswith("ups_server/_models/") for name in large)
