"""Numbers of rows are the file's own, and rows that cannot be used are left out alike by whoever reads them."""

import json
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.pdebench_files import plain, values_of, write
from ups_server.data.check import check_file
from ups_server.data.formats import open_source
from ups_server.data.scan import usable
from ups_server.data.source import RowNumbers, place_of
from ups_server.data.store import MANIFEST, Store
from ups_server.data.writer import transcode
from ups_server.errors import UserError
from ups_server.evaluation.evaluate import evaluate

NOT_FINITE = "u holds values that are not finite"


def code_of(numbers: RowNumbers, number: int) -> str:
    with pytest.raises(UserError) as caught:
        numbers.place(number, "a.h5")
    return caught.value.code


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    """Six rows; 2 and 4 hold a NaN each, somewhere."""
    values = values_of("advection", 6)[..., 0].copy()
    values[2, 3, 4] = values[4, 0, 0] = np.nan
    return plain(tmp_path / "1D_Advection_Sols_beta0.4.hdf5", {"beta": 0.4}, tensor=values)


def test_numbers_of_rows() -> None:
    numbers = RowNumbers.without({2: "a", 4: "b"}, 4)
    assert numbers.numbers.tolist() == [0, 1, 3, 5]
    assert [numbers.place(number, "a.h5") for number in (0, 1, 3, 5)] == [0, 1, 2, 3]
    assert (code_of(numbers, 4), code_of(numbers, 6)) == ("unusable_row", "row_out_of_range")
    chosen = numbers.chosen(np.array([1, 3]), {2: "c"})
    assert (chosen.numbers.tolist(), chosen.left_out) == ([1, 5], {2: "a", 4: "b", 3: "c"})


def test_rows_that_an_earlier_version_left_out_without_recording_them() -> None:
    numbers = RowNumbers.without({2: "a"}, 4, unrecorded=3)
    assert (numbers.place(1, "a.h5"), code_of(numbers, 2), code_of(numbers, 3)) == (1, "unusable_row", "unknown_row")


def test_a_store_keeps_the_numbers_of_its_file(holes: Path, tmp_path: Path) -> None:
    with closing(open_source(holes)) as source:
        left_out = usable(source).row_numbers.left_out
        assert left_out == {2: NOT_FINITE, 4: NOT_FINITE}
        transcode(source, tmp_path / "store", left_out=left_out).close()
    with Store.open(tmp_path / "store") as store:
        assert store.row_numbers.numbers.tolist() == [0, 1, 3, 5]
        np.testing.assert_array_equal(store.read([place_of(store, 3, "a")])[0], values_of("advection", 6)[3])
        again = transcode(store, tmp_path / "again")
        assert again.row_numbers.left_out == left_out
        again.close()
    report = check_file(tmp_path / "store")
    assert (report.trajectories, report.usable, report.unusable_rows) == (6, 4, (2, 4))


def test_a_store_of_an_earlier_version(holes: Path, tmp_path: Path) -> None:
    with closing(open_source(holes)) as source:
        rows = usable(source)
        transcode(source, tmp_path / "store", {"refused": 2}, left_out=rows.row_numbers.left_out).close()
    file = tmp_path / "store" / MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["left_out"]
    file.write_text(json.dumps(manifest))
    with Store.open(tmp_path / "store") as store:
        assert code_of(store.row_numbers, 0) == "unknown_row"


def test_only_as_many_rows_are_read_as_are_wanted(holes: Path) -> None:
    with closing(open_source(holes)) as source:
        rows = usable(source, 3)
        assert (rows.row_numbers.numbers.tolist(), list(rows.row_numbers.left_out)) == ([0, 1, 3], [2])


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {"beta": 0.4}, tensor=np.full((3, 5, 16), np.nan, "f4"))
    with closing(open_source(path, "advection")) as source, pytest.raises(UserError) as caught:
        usable(source)
    assert caught.value.code == "unusable_file"


def test_an_evaluation_leaves_out_and_lists(holes: Path, tmp_path: Path) -> None:
    predictions = tmp_path / "predictions.h5"
    (scores,) = evaluate("persistence", [holes], dt=0.01, predictions=predictions)
    assert scores.trajectories == 4
    assert scores.as_dict()["left_out"] == [{"reason": NOT_FINITE, "rows": [2, 4]}]
    assert scores.one_step is not None
    assert scores.one_step.finite
    with h5py.File(predictions) as file:
        assert file["rows"][:].tolist() == [0, 1, 3, 5]
        np.testing.assert_array_equal(file["truth"][2, 0], values_of("advection", 6)[3, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_a_row_whose_coefficient_cannot_be(tmp_path: Path, bad: float) -> None:
    path = plain(tmp_path / "file.h5", {})
    with h5py.File(path, "a") as file:
        file.attrs["Nu"] = [bad, 0.1, 0.2]
    report = check_file(path, "burgers")
    assert (report.usable, report.unusable_rows, report.coefficients["nu"][1]) == (2, (0,), 0.2)
    assert report.left_out[0].reason == f"its coefficient nu is {bad:g}, outside its domain"


def test_the_user_cannot_speak_over_a_list(tmp_path: Path) -> None:
    path = plain(tmp_path / "file.h5", {})
    with h5py.File(path, "a") as file:
        file.attrs["Nu"] = [0.1, 0.1, 0.2]
    with pytest.raises(UserError) as caught:
        check_file(path, "burgers", {"nu": 0.1})
    assert (caught.value.code, "trajectory 2" in caught.value.message) == ("coefficient_mismatch", True)


def test_one_configuration_of_many_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "file.h5", "diffusion_sorption")
    with h5py.File(path, "a") as file:
        file["0001"].attrs["config"] = "name: 1d_diff-sorp\nsim: {D: 1.0}"
    report = check_file(path)
    assert (report.usable, report.unusable_rows) == (2, (1,))
    assert "D is fixed" in report.left_out[0].reason
