"""Files as people bring them, on the command line. Over HTTP: `tests/api/test_cases.py`."""

import json
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cases import BETA, CASES, FRAMES, POINTS, ROWS, SHARED, Case, expect, moving, single, ups
from ups_server.cli.train import FileSaid, _store
from ups_server.data.check import check_file
from ups_server.data.formats import open_source
from ups_server.data.source import place_of

Output = pytest.CaptureFixture[str]


def checked(case: Case, path: Path, capsys: Output) -> None:
    code = ups("data", "check", str(path), "--json")
    output = capsys.readouterr()
    if case.outcome == "refused":
        assert (code, output.out) == (2, "")
        for words in case.says:
            assert words in output.err
    else:
        assert code == (0 if case.outcome == "read" else 2), output.err
        expect(case, json.loads(output.out))


@pytest.mark.parametrize("case_id", CASES)
def test_on_the_command_line(case_id: str, tmp_path: Path, capsys: Output) -> None:
    case = CASES[case_id]
    path = tmp_path / case.name
    case.make(path)
    checked(case, path, capsys)


@pytest.mark.parametrize("case_id", CASES)
def test_given_files(case_id: str, capsys: Output) -> None:
    path = SHARED / "inputs" / CASES[case_id].name
    if not path.is_file():
        pytest.skip(f"there is no ../shared/cases/inputs/{path.name} on this machine")
    checked(CASES[case_id], path, capsys)


def test_every_given_line_is_a_case() -> None:
    if not SHARED.is_dir():
        pytest.skip("there is no ../shared/cases on this machine")
    lines = {line["id"] for line in json.loads((SHARED / "cases.json").read_text())}
    assert lines - set(CASES) == {"nan-eval", "declaration-inline", "empty-upload"}


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    path = tmp_path / "1D_Advection_Sols_beta0.4.hdf5"
    CASES["row-shift"].make(path)
    return path


def test_nan_eval(holes: Path, tmp_path: Path, capsys: Output) -> None:
    """`evaluate` leaves out and lists the rows that `check` does; persistence does not diverge."""
    assert ups("evaluate", "persistence", str(holes), "--json", "-") == 0
    (scores,) = json.loads(capsys.readouterr().out)
    assert scores["trajectories"] == 4
    assert scores["left_out"] == [{"reason": "u holds values that are not finite", "rows": [2, 4]}]
    assert scores["persistence"]["one_step"]["nrmse"] is not None
    assert ups("evaluate", "persistence", str(holes), "--trajectories", "3") == 0
    assert "row 2 left out: u holds values that are not finite" in capsys.readouterr().err


def test_adapt_leaves_out_and_lists(holes: Path, tmp_path: Path, capsys: Output) -> None:
    with closing(_store(holes, FileSaid(None, {}), tmp_path / "store", lambda *_: None)) as store:
        assert store.row_numbers.numbers.tolist() == [0, 1, 3, 5]
        np.testing.assert_array_equal(store.read([2])[0, ..., 0], moving()[3])
    assert "rows 2, 4 left out: u holds values that are not finite" in capsys.readouterr().err


def test_a_picture_has_the_number_of_the_file(holes: Path, tmp_path: Path) -> None:
    source = open_source(holes)
    np.testing.assert_array_equal(source.read([place_of(source, 3, "")])[0, ..., 0], moving()[3])
    source.close()


def test_family_and_coefficients_by_option(tmp_path: Path, capsys: Output) -> None:
    path, picture = tmp_path / "data.hdf5", tmp_path / "picture.png"
    single(path, moving(), {})
    said = ["--family", "advection", "--coef", f"beta={BETA}"]
    assert ups("data", "check", str(path), *said) == 0
    assert "beta = 0.4" in capsys.readouterr().out
    assert ups("data", "show", str(path), "--output", str(picture), *said) == 0
    assert ups("evaluate", "numerical", str(path), *said, "--json", "-") == 0
    (scores,) = json.loads(capsys.readouterr().out)
    assert scores["coefficients"] == {"beta": BETA}
    assert scores["one_step"]["nrmse"] < 1e-4
    assert ups("data", "check", str(path), "--family", "advection", "--coef", "nu=1") == 2
    assert "no coefficient nu" in capsys.readouterr().err


def test_netcdf_whose_coefficient_the_user_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.nc"
    CASES["nc-no-coef"].make(path)
    assert check_file(path, coefficients={"nu": 0.2}, probed=False).coefficients == {"nu": (0.2, 0.2)}


def test_frames_that_are_not_equally_spaced_are_not_scored(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "adv_t_log.hdf5"
    CASES["t-nonuniform"].make(path)
    assert ups("evaluate", "persistence", str(path)) == 2
    assert "not evenly spaced in time" in capsys.readouterr().err


def test_an_empty_file(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "empty.h5"
    path.touch()
    assert ups("data", "check", str(path)) == 2
    assert "empty.h5 is empty" in capsys.readouterr().err


def test_what_is_odd_about_rows_is_noted(tmp_path: Path) -> None:
    values = moving()
    values[1, 20:] = values[1, 20]
    values[4] = values[0]
    single(tmp_path / "a.h5", values, {"beta": BETA})
    assert check_file(tmp_path / "a.h5", "advection").warnings == (
        "row 1: nothing changes any more from a frame on, the earliest 20",
        "1 trajectory with exactly the values of another: row 4 is row 0",
    )


def test_what_is_said_of_a_row_of_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = moving()
    values[1, 20:] = values[1, 20]
    values[4] = values[0]
    single(tmp_path / "a.h5", values, {"beta": BETA})
    whole = check_file(tmp_path / "a.h5", "advection")
    monkeypatch.setattr("ups_server.data.source.block_rows.__defaults__", (POINTS * 16,))
    monkeypatch.setattr("ups_server.data.source.frame_slices.__defaults__", (POINTS * 16,))
    pieces = check_file(tmp_path / "a.h5", "advection")
    assert (pieces.warnings, len(pieces.warnings), pieces.left_out) == (whole.warnings, 2, ())


def test_chunks_of_no_row_are_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("tensor", (ROWS, FRAMES, POINTS), "f4", chunks=(4, 10, POINTS))
        data[:] = moving()
        file["x-coordinate"], file["t-coordinate"] = (np.arange(POINTS) + 0.5) / POINTS, np.arange(FRAMES) * 0.05
    assert check_file(tmp_path / "a.h5", "advection", {"beta": BETA}).ok
