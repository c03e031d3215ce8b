"""What the confined process has given up, asked of the kernel itself."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ups_server.files.examination import environment
from ups_server.files.examination_process import PACKAGE, code_folders

PROGRAM = """
import os, sys
from pathlib import Path
from ups_server.files import confinement
from ups_server.files.records import ExaminationLimits
import h5py, socket
content, output, secret, confined = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "yes"
if confined:
    confinement.limit_resources(ExaminationLimits())
    held = confinement.restrict_files([content], [output]), confinement.restrict_calls()
    if held != (True, True):
        print("unprotected", held)
        sys.exit()

def attempt(name, action):
    try:
        action()
        print(name, "done", flush=True)
    except (OSError, MemoryError) as error:
        print(name, type(error).__name__, flush=True)

def external():
    with h5py.File(content) as file:
        assert file["tensor"][0] == 7.0

def write_inside():
    (output / "a").write_text("a")
    os.replace(output / "a", output / "b")
    (output / "b").unlink()

attempt("read_secret", lambda: open(secret).close())
attempt("external_storage", external)
attempt("write_outside", lambda: open(secret + ".new", "w").close())
attempt("write_inside", write_inside)
attempt("socket", lambda: socket.socket().close())
attempt("fork", lambda: os.fork() or os._exit(0))
attempt("run", lambda: os.execv(sys.executable, [sys.executable, "-c", "print('run', 'done')"]))
"""

OFFERED = ("read_secret", "external_storage", "write_outside", "write_inside", "socket", "fork", "run")


def attempts(tmp_path: Path, confined: str) -> dict[str, str]:
    secret = tmp_path / "secret"
    secret.write_bytes(np.full(4, 7.0, "f4").tobytes())
    content, output = tmp_path / "file.h5", tmp_path / "output"
    output.mkdir()
    with h5py.File(content, "w") as file:
        file.create_dataset("tensor", (4,), "f4", external=[(str(secret), 0, 16)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(content), str(output), str(secret), confined],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stdout.startswith("unprotected"):
        pytest.skip(f"this kernel has no Landlock or no seccomp: {done.stdout}")
    return dict(line.split() for line in done.stdout.splitlines())


def test_without_confinement_all_succeeds(tmp_path: Path) -> None:
    assert attempts(tmp_path, "no") == dict.fromkeys(OFFERED, "done")


def test_confined(tmp_path: Path) -> None:
    found = attempts(tmp_path, "yes")
    assert found.pop("write_inside") == "done"
    assert found == dict.fromkeys([name for name in OFFERED if name != "write_inside"], "PermissionError") | {
        "external_storage": found["external_storage"]
    }
    assert found["external_storage"] in ("OSError", "PermissionError")


def test_the_environment_passes_nothing_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPS_DATABASE_URL", "secret")
    assert "secret" not in environment(tmp_path).values()
    assert environment(tmp_path)["HDF5_PLUGIN_PRELOAD"] == "::"


def test_the_service_side_opens_no_hdf5() -> None:
    program = (
        "import sys, ups_server.files.examination, ups_server.files.storage, ups_server.client; "
        "print('h5py' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ.copy()
    )
    assert done.stdout.split() == ["False", "False"]


def test_packages_of_another_environment_can_be_read_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in an environment that sees the packages of the system, or of another one by a `.pth` file."""
    elsewhere, data = tmp_path / "site-packages", tmp_path / "data"
    monkeypatch.setattr(sys, "path", [*sys.path, str(elsewhere), str(data), ""])
    assert elsewhere in code_folders()
    assert data not in code_folders()
    assert PACKAGE.parent.name == "site-packages" or PACKAGE.parent not in code_folders()
