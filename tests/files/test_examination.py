"""What is found in good files, with and without a declaration, and what becomes of them.

Examinations follow from what is on disk, are begun again, cancelled and never run twice at a time.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.api.conftest import wait_until
from tests.files.examined import Examined, examined
from tests.files.test_declaration import EQUATION
from tests.pdebench_files import FRAMES, plain, values_of, write
from ups_server.data.check import check_file
from ups_server.data.source import LeftOut
from ups_server.data.store import Store
from ups_server.files.declaration import Declaration
from ups_server.files.examination import ATTEMPTS, CRASHING_ATTEMPTS, PNG, Examiner
from ups_server.files.examination_process import readable
from ups_server.files.records import ExaminationLimits, FileRecord, FileReport, UploadRequest
from ups_server.files.storage import CONTENT, FileStorage
from ups_server.pde.registry import known_family


def accepted(found: Examined) -> FileReport:
    assert found.result.problem is None, found.result.problem
    assert found.result.report is not None
    return found.result.report


def code_of(found: Examined) -> str:
    assert found.result.problem is not None
    return found.result.problem.code


@pytest.mark.parametrize("name", ["compressible_ns_1d", "diffusion_reaction_2d", "incompressible_ns_2d"])
def test_every_layout(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "file.h5", name)
    found = examined(path, tmp_path, family=name)
    report = accepted(found)
    assert (report.check.family, report.rows, report.declared) == (name, 3, ("family",))
    assert report.slots == {field.name: field.slot for field in known_family(name).fields}
    with Store.open(found.output / "store") as store:
        np.testing.assert_array_equal(store.read(range(3)), values_of(name))
        assert store.manifest.fingerprint == report.fingerprint
        assert store.manifest.provenance["name"] == "file.h5"
    assert (found.output / "preview.png").read_bytes()[:8] == PNG
    assert found.usage.memory_bytes < 400e6


def test_the_name_of_a_published_file_tells_its_family(tmp_path: Path) -> None:
    path = plain(tmp_path / "content.h5", {})
    report = accepted(examined(path, tmp_path, name="1D_Advection_Sols_beta0.7.hdf5"))
    assert (report.check.family, report.check.coefficients) == ("advection", {"beta": (0.7, 0.7)})
    assert (report.check.file, report.declared) == ("1D_Advection_Sols_beta0.7.hdf5", ())


def test_a_declaration_wins_over_the_name(tmp_path: Path) -> None:
    path = plain(tmp_path / "content.h5", {})
    found = examined(path, tmp_path, name="1D_Advection_Sols_beta0.7.hdf5", family="burgers", coefficients={"nu": 0.5})
    assert accepted(found).check.coefficients == {"nu": (0.5, 0.5)}


def test_a_declaration_does_not_win_over_what_the_file_says(tmp_path: Path) -> None:
    path = plain(tmp_path / "content.h5", {"beta": 0.4})
    assert code_of(examined(path, tmp_path, family="advection", coefficients={"beta": 0.5})) == "coefficient_mismatch"


def test_a_family_that_nobody_tells(tmp_path: Path) -> None:
    assert code_of(examined(plain(tmp_path / "content.h5", {}), tmp_path)) == "family_unknown"


def test_declared_boundary_and_axes(tmp_path: Path) -> None:
    path = write(tmp_path / "file.h5", "shallow_water")
    with h5py.File(path, "a") as file:
        for group in file.values():
            stored = group["data"][:].swapaxes(1, 2)
            del group["data"]
            group["data"] = stored
    walls = [["no_flux", "no_flux"], ["outflow", "outflow"]]
    found = examined(path, tmp_path, family="shallow_water", boundary=walls, axes=["y", "x"])
    report = accepted(found)
    assert [list(sides) for sides in report.boundary] == walls
    with Store.open(found.output / "store") as store:
        assert store.boundary.as_names() == walls
        np.testing.assert_array_equal(store.read(range(3)), values_of("shallow_water"))


def test_trajectories_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    values = values_of("advection")[..., 0].copy()
    values[1, 2, 3] = np.nan
    found = examined(plain(tmp_path / "file.h5", {"beta": 0.4}, tensor=values), tmp_path, family="advection")
    report = accepted(found)
    assert (report.check.usable, report.rows, report.check.unusable_rows) == (2, 2, (1,))
    assert report.check.problems == ("u holds 1 values that are not finite",)
    assert report.check.left_out == (LeftOut(reason="u holds values that are not finite", rows=(1,)),)
    with Store.open(found.output / "store") as store:
        np.testing.assert_array_equal(store.read(range(2))[..., 0], values[[0, 2]])
        assert store.row_numbers.numbers.tolist() == [0, 2]


def test_chunks_that_are_missing_or_damaged_leave_their_rows_out(tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {"beta": 0.4}, tensor=None)
    with h5py.File(path, "a") as file:
        data = file.create_dataset("tensor", (3, FRAMES, 16), "f4", chunks=(1, FRAMES, 16), compression="gzip")
        data[1:] = values_of("advection")[1:, ..., 0]
        data.id.write_direct_chunk((2, 0, 0), b"\x00" * 64)
    report = accepted(examined(path, tmp_path, family="advection"))
    checked = check_file(path, "advection")
    assert report.check.left_out == checked.left_out
    assert {group.rows: group.reason for group in checked.left_out} == {
        (0,): "its values were never all written",
        (2,): "/tensor cannot be read: its data are damaged or missing",
    }
    assert (report.rows, report.preview_row, checked.usable) == (1, 1, 1)


def allen_cahn(path: Path, **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["phase"] = values_of("advection")[..., 0]
        file["x-coordinate"] = -1 + (np.arange(16) + 0.5) / 8
        file["t-coordinate"] = np.arange(FRAMES) * 0.25
        file.attrs.update(attributes)
    return path


def test_an_equation_of_the_users_own(tmp_path: Path) -> None:
    equation = EQUATION | {"fields": [{"name": "u", "slot": 2, "dataset": "phase"}]}
    found = examined(allen_cahn(tmp_path / "file.h5", eps=0.01), tmp_path, equation=equation)
    report = accepted(found)
    assert (report.check.family, report.check.equation) == ("allen_cahn", "u_t = eps u_xx + u - u^3")
    assert (report.slots, report.dt, report.check.coefficients) == ({"u": 2}, 0.25, {"eps": (0.01, 0.01)})
    with Store.open(found.output / "store") as store:
        assert (store.family, store.fields, store.grid.extent) == ("allen_cahn", ("u",), ((-1.0, 1.0),))
        np.testing.assert_array_equal(store.read(range(3)), values_of("advection"))


def test_an_equation_whose_number_nobody_tells(tmp_path: Path) -> None:
    equation = EQUATION | {"fields": [{"name": "u", "slot": 0, "dataset": "phase"}]}
    assert code_of(examined(allen_cahn(tmp_path / "file.h5"), tmp_path, equation=equation)) == "coefficient_missing"


def test_an_equation_that_the_file_does_not_hold(tmp_path: Path) -> None:
    found = examined(allen_cahn(tmp_path / "file.h5", eps=0.01), tmp_path, equation=EQUATION)
    assert code_of(found) == "missing_dataset"


def test_a_grouped_equation_in_two_dimensions(tmp_path: Path) -> None:
    path = write(tmp_path / "file.h5", "diffusion_reaction_2d")
    with h5py.File(path, "a") as file:
        for group in file.values():
            group.attrs["config"] = "name: mine\nsim: {a: 2.0}"
    equation = {
        "id": "two_species",
        "name": "2D Two Species",
        "equation": "u_t = a lap u - v, v_t = u",
        "fields": [{"name": "u", "slot": 0}, {"name": "v", "slot": 1}],
        "coefficients": [{"name": "a", "value": 2.0}],
        "extent": [[-1.0, 1.0], [-1.0, 1.0]],
        "boundary": [["no_flux", "no_flux"]] * 2,
        "layout": "grouped",
    }
    found = examined(path, tmp_path, equation=equation, axes=["y", "x"])
    assert accepted(found).check.coefficients == {"a": (2.0, 2.0)}
    with Store.open(found.output / "store") as store:
        np.testing.assert_array_equal(store.read(range(3)), values_of("diffusion_reaction_2d"))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["1D_*", "2D_*", "ReacDiff*", "ns_incom*"])
def test_published_files(pattern: str, pdebench: Path, tmp_path: Path) -> None:
    for path in sorted(pdebench.glob(pattern)):
        found = examined(path, tmp_path / path.stem)
        report = accepted(found)
        assert report.rows == report.check.trajectories
        assert not report.check.problems
        assert (found.output / "preview.png").read_bytes()[:8] == PNG


def test_texts_that_are_no_characters_can_be_answered() -> None:
    """As HDF5 gives names with bytes that are no UTF-8."""
    found = readable({"name": "rho\udcfb", "values": (1.5, float("nan"), None), "nested": [{"text": "u"}]})
    assert found == {"name": "rho\\udcfb", "values": [1.5, None, None], "nested": [{"text": "u"}]}
    json.dumps(found).encode()


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "files", quota=2**24, max_bytes=2**24)


@pytest.fixture
def examiner(storage: FileStorage) -> Iterator[Examiner]:
    examiner = Examiner(storage, ExaminationLimits(), timeout_s=60.0, at_once=2)
    yield examiner
    examiner.close()


def uploaded(storage: FileStorage, tmp_path: Path, declaration: Declaration | None = None) -> FileRecord:
    content = plain(tmp_path / "content.h5", {}).read_bytes()
    request = UploadRequest(name="file.h5", size=len(content), declaration=declaration or Declaration())
    record, _ = storage.create(request)
    with storage.writer(record.id, 0) as writer:
        writer.write(content)
    return storage.record(record.id)


def over(storage: FileStorage, file_id: str) -> FileRecord:
    wait_until(lambda: storage.record(file_id).state in ("ready", "refused"), "the file is examined")
    return storage.record(file_id)


def test_what_is_whole_is_examined_at_the_start(examiner: Examiner, storage: FileStorage, tmp_path: Path) -> None:
    record = uploaded(storage, tmp_path)
    (storage.folder(record.id) / "store").mkdir()  # of an examination that was cut off before its outcome
    (storage.folder(record.id) / ".work-1").mkdir()
    examiner.start()
    refused = over(storage, record.id)
    assert refused.problem is not None
    assert refused.problem.code == "family_unknown"
    assert refused.usage is not None
    storage.redeclare(record.id, Declaration(family="advection", coefficients={"beta": 0.4}))
    for _ in range(5):
        examiner.submit(record.id)
    ready = over(storage, record.id)
    assert ready.report is not None
    assert ready.report.rows == 3
    assert storage.room() == storage.quota - ready.report.store_bytes
    wait_until(lambda: not (storage.folder(record.id) / CONTENT).exists(), "the original is removed")
    with storage.open_store(record.id) as store:
        assert len(store) == 3


def test_an_examination_that_is_cut_off_leaves_the_file_waiting(storage: FileStorage, tmp_path: Path) -> None:
    record = uploaded(storage, tmp_path)
    examiner = Examiner(storage, ExaminationLimits(), timeout_s=60.0)
    examiner.start()
    wait_until(lambda: bool(list(storage.folder(record.id).glob(".work-*/log.txt"))), "the process is started")
    examiner.close()
    assert storage.record(record.id).state == "validating"
    assert not list(storage.folder(record.id).glob(".work-*"))


def test_a_file_can_be_deleted_while_it_is_examined(examiner: Examiner, storage: FileStorage, tmp_path: Path) -> None:
    record = uploaded(storage, tmp_path)
    examiner.start()
    wait_until(lambda: bool(list(storage.folder(record.id).glob(".work-*/log.txt"))), "the process is started")
    examiner.cancel(record.id)
    storage.delete(record.id)
    assert storage.ids() == []


def test_our_own_failure_is_told(
    examiner: Examiner, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ups_server.files.examination.sys.executable", "no-such-python")
    record = uploaded(storage, tmp_path)
    examiner.start()
    refused = over(storage, record.id)
    assert refused.problem is not None
    assert refused.problem.code == "examination_failed"


class Killer:
    """Ends the first so many examinations by a signal, as soon as each is started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, by: signal.Signals, times: int) -> None:
        self.by, self.left, self.killed = by, times, 0
        self._start = subprocess.Popen
        monkeypatch.setattr("ups_server.files.examination.subprocess.Popen", self)

    def __call__(self, *words: Any, **more: Any) -> "subprocess.Popen[bytes]":
        process = self._start(*words, **more)
        if self.left and more.get("start_new_session"):
            self.left -= 1
            self.killed += 1
            os.kill(process.pid, self.by)
        return process


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU, signal.SIGSEGV], ids=lambda by: by.name)
def test_a_valid_file_outlives_the_signals_that_end_its_examination(
    by: signal.Signals, examiner: Examiner, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(monkeypatch, by, 1)
    record = uploaded(storage, tmp_path, Declaration(family="advection", coefficients={"beta": 0.4}))
    examiner.start()
    ready = over(storage, record.id)
    assert (ready.state, ready.problem, killer.killed) == ("ready", None, 1)


@pytest.mark.parametrize(
    ("by", "attempts", "code"),
    [(signal.SIGKILL, ATTEMPTS, "examination_failed"), (signal.SIGSEGV, CRASHING_ATTEMPTS, "damaged_file")],
    ids=["SIGKILL", "SIGSEGV"],
)
def test_it_is_not_examined_for_ever(
    by: signal.Signals,
    attempts: int,
    code: str,
    examiner: Examiner,
    storage: FileStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody measured is no lack of memory."""
    monkeypatch.setattr("ups_server.files.examination.PAUSE_S", 0.0)
    killer = Killer(monkeypatch, by, 100)
    record = uploaded(storage, tmp_path)
    examiner.start()
    refused = over(storage, record.id)
    assert refused.problem is not None
    assert (refused.problem.code, killer.killed) == (code, attempts)
    examiner.close()  # waits for the thread, which tidies up last
    assert not list(storage.folder(record.id).glob(".work-*"))


def test_closing_ends_the_pause_between_two_examinations(
    storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ups_server.files.examination.PAUSE_S", 3600.0)
    killer = Killer(monkeypatch, signal.SIGKILL, 1)
    record = uploaded(storage, tmp_path)
    examiner = Examiner(storage, ExaminationLimits(), timeout_s=60.0)
    examiner.start()
    wait_until(lambda: killer.killed == 1, "the process is started and killed")
    examiner.close()
    assert storage.record(record.id).state == "validating"
