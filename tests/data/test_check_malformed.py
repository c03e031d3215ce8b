"""Every layout, broken in every way: `ups data check` says one clear sentence and exits with code 2."""

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.pdebench_files import FAMILIES, write
from ups_server.cli import main
from ups_server.data.formats.pdebench.card import GROUPED, SINGLE, Card, card_of
from ups_server.pde.registry import known_family

Break = Callable[[Path, Card], None]


def missing_dataset(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        del file[value_names(card)[0]]


def missing_static_field(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        del file[card.static[0]]


def missing_times(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        del file[times_name(card)]


def wrong_axis(path: Path, card: Card) -> None:
    """Coordinates twice as far apart; times that fall where there are no coordinates."""
    with h5py.File(path, "a") as file:
        for name in axis_names(card)[:1] or [times_name(card)]:
            sign = 2.0 if axis_names(card) else -1.0
            replace(file, name, np.asarray(file[name]) * np.float32(sign))


def short_axis(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        for name in axis_names(card)[:1] or [times_name(card)]:
            replace(file, name, np.asarray(file[name])[..., 2:])


def not_finite(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        file[value_names(card)[-1]][..., 0] = np.nan


def static_not_finite(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        file[card.static[0]][0, 1] = np.inf


def negative(path: Path, card: Card) -> None:
    equation = known_family(card.family)
    with h5py.File(path, "a") as file:
        if card.static and any(field.positive for field in equation.static_fields):
            file[card.static[0]][0, 1] = -1.0
        else:
            channel = next(index for index, field in enumerate(equation.fields) if field.positive)
            name = value_names(card)[0 if card.layout == GROUPED else channel]
            file[name][-1] = -1.0


def ragged(path: Path, card: Card) -> None:
    """A later group, or a later field, of another shape."""
    with h5py.File(path, "a") as file:
        name = "0001/data" if card.layout == GROUPED else [*card.datasets, *card.static][-1]
        replace(file, name, np.asarray(file[name])[1:])


def integers(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        name = value_names(card)[0]
        replace(file, name, np.ones(file[name].shape, np.int16))


def one_axis_less(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        name = value_names(card)[0]
        replace(file, name, np.asarray(file[name])[..., 0])


def no_values(path: Path, card: Card) -> None:
    with h5py.File(path, "a") as file:
        name = value_names(card)[0]
        replace(file, name, np.zeros((0, *file[name].shape[1:]), np.float32))


def empty_file(path: Path, card: Card) -> None:
    path.write_bytes(b"")


def empty_hdf5(path: Path, card: Card) -> None:
    h5py.File(path, "w").close()


def truncated(path: Path, card: Card) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def other_format(path: Path, card: Card) -> None:
    path.write_text("time,value\n0,1\n" * 100)


def replace(file: h5py.File, name: str, values: object) -> None:
    del file[name]
    file[name] = values


def value_names(card: Card) -> list[str]:
    return ["0000/data"] if card.layout == GROUPED else list(card.datasets)


def axis_names(card: Card) -> list[str]:
    """Of the coordinates; incompressible files have none."""
    pattern = {SINGLE: "{}-coordinate", GROUPED: "0000/grid/{}"}.get(card.layout)
    return [pattern.format(axis) for axis in card.axes] if pattern else []


def times_name(card: Card) -> str:
    return {SINGLE: "t-coordinate", GROUPED: "0000/grid/t"}.get(card.layout, "t")


ALWAYS: tuple[Break, ...] = (
    missing_dataset,
    wrong_axis,
    short_axis,
    not_finite,
    integers,
    one_axis_less,
    no_values,
    empty_file,
    empty_hdf5,
    truncated,
    other_format,
)


def cases() -> Iterator[tuple[str, Break]]:
    """Every family with every break that its layout can suffer."""
    for name in FAMILIES:
        card, equation = card_of(name), known_family(name)
        assert card is not None
        yield from ((name, spoil) for spoil in ALWAYS)
        if not card.steady:
            yield name, missing_times
        if card.static:
            yield from ((name, spoil) for spoil in (missing_static_field, static_not_finite))
        if any(field.positive for field in (*equation.fields, *equation.static_fields)):
            yield name, negative
        if card.layout == GROUPED or len(card.datasets) + len(card.static) > 1:
            yield name, ragged


@pytest.mark.parametrize(
    ("name", "spoil"), [pytest.param(*case, id=f"{case[0]}-{case[1].__name__}") for case in cases()]
)
def test_one_clear_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, spoil: Break
) -> None:
    card = card_of(name)
    assert card is not None
    path = write(tmp_path / "file.h5", name)
    assert checked(path, capsys)[0] == 0
    spoil(path, card)
    code, error = checked(path, capsys)
    assert code == 2
    assert error.startswith("ups: ")
    assert len(error.splitlines()) == 1
    assert 20 < len(error) < 500


@pytest.mark.parametrize("name", FAMILIES)
def test_the_sentence_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    card = card_of(name)
    assert card is not None
    missing_dataset(write(tmp_path / "missing.h5", name), card)
    assert value_names(card)[0].split("/")[-1] in checked(tmp_path / "missing.h5", capsys)[1]
    not_finite(write(tmp_path / "nan.h5", name), card)
    assert "not finite" in checked(tmp_path / "nan.h5", capsys)[1]
    integers(write(tmp_path / "integers.h5", name), card)
    assert "int16" in checked(tmp_path / "integers.h5", capsys)[1]


def checked(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and what is on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(path)])
    code = ended.value.code
    return code if isinstance(code, int) else 0, capsys.readouterr().err
