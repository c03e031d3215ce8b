"""The house rules that a reviewer should not have to remember."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "ups_server"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    *MODULES,
    *(path for part in ("tests", "benchmarks", "docs") for path in sorted((REPOSITORY / part).rglob("*.py"))),
]

ORDER = (
    "errors",
    "addresses",
    "plugins",
    "settings",
    "processes",
    "tracing",
    "objects",
    "pde",
    "tensors",
    "specs",
    "catalog",
    "language",
    "pictures",
    "data",
    "files",
    "model",
    "solvers",
    "evaluation",
    "align",
    "train",
    "engine",
    "rollout",
    "jobs",
    "access",
    "client",
    "api",
    "cli",
)
"""A unit imports itself and what stands before it."""

TORCH_USERS = ("model", "solvers", "evaluation", "align", "train", "engine", "rollout", "jobs")
TORCH_FREE = tuple(unit for unit in ORDER if unit not in TORCH_USERS)
TYPE_NAME = re.compile(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*$")
SAME_MEANING = {"Rows"}
"""Defined more than once: numbers of rows, as solvers know them and as files do (any sequence); `pde` knows no file."""
HEAVY = ("torch", "transformers", "neuralop", "tensorboard", "wandb")


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def unit_of(module: str) -> str | None:
    """`ups_server.pde.grid` to `pde`; None for the package itself and for others."""
    parts = module.split(".")
    return parts[1] if parts[0] == "ups_server" and len(parts) > 1 else None


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            module = node.module or ""
            if module == "ups_server":
                yield from (f"ups_server.{alias.name}" for alias in node.names)
            else:
                yield module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    unit = unit_of(dotted(path))
    if unit is None:
        return
    assert unit in ORDER, f"{unit} has no place in the order of imports"
    for module in imported(path):
        other = unit_of(module)
        if other is not None and other in ORDER:
            assert ORDER.index(other) <= ORDER.index(unit), f"{name_of(path)} imports {module}"


def imported_files(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The files of the package that a file imports, those needed for types only apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            places = ((f"{node.module}.{alias.name}", node.module) for alias in node.names)
            found |= {inner if inner in known else outer for inner, outer in places}
    return (found & known.keys()) - {dotted(path)}


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Circles between files: neither is understood without the other."""
    known = {dotted(path): path for path in MODULES}
    edges = {name: imported_files(path, known) for name, path in known.items()}
    reachable = {name: set(targets) for name, targets in edges.items()}
    changed = True
    while changed:
        changed = False
        for targets in reachable.values():
            further = set().union(*(reachable[target] for target in targets)) - targets
            changed |= bool(further)
            targets |= further
    circular = {name for name, targets in reachable.items() if name in targets}
    assert not circular, sorted(circular)


def public_names(path: Path) -> Iterator[str]:
    """Classes and names of types that a file defines at its top."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name) and TYPE_NAME.match(target.id))


def test_a_name_has_one_meaning() -> None:
    """Whoever reads `Checkpoint` somewhere need not ask which."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for name in public_names(path):
            if not name.startswith("_"):
                places.setdefault(name, []).append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SAME_MEANING} == {}
    assert all(len(places.get(name, ())) > 1 for name in SAME_MEANING), "is defined once: no exception is needed"


@pytest.mark.parametrize("unit", TORCH_FREE)
def test_starts_without_torch(unit: str) -> None:
    modules = [dotted(path) for path in MODULES if unit_of(dotted(path)) == unit]
    if not modules:
        pytest.skip(f"there is no {unit}")
    program = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_path_of_one_machine(path: Path) -> None:
    absolute = re.compile(r"/(home|root|work|usr|opt|mnt|Users|tmp)/")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and absolute.match(node.value)
    ]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_pickle_and_no_bare_except(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not {"pickle", "dill", "cloudpickle"} & set(imported(path))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except, line {node.lineno}"
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            assert (node.arg, node.value.value) not in {("allow_pickle", True), ("weights_only", False)}
