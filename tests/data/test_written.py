"""Files whose equation is written in symbols: the family, the coefficients of each trajectory, the forcing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ups_server.data.formats import open_source
from ups_server.data.mapping import Mapping
from ups_server.errors import UserError

N, T, X = 3, 5, 32


def mapping(symbols: str, **more: Any) -> Mapping:
    document = {
        "symbols": symbols,
        "fields": [{"name": "u", "array": "u"}],
        "axes": ["trajectory", "time", "x"],
        "time": {"array": "t"},
        "space": {"x": {"array": "x", "points": "cells"}},
    }
    return Mapping.from_document(document | more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """On [-1, 3]."""
    values = np.random.default_rng(0).normal(size=(N, T, X)).astype(np.float32)
    x = -1 + 4 * (np.arange(X) + 0.5) / X
    np.savez(tmp_path / "u.npz", u=values, t=0.1 * np.arange(T), x=x, nu=np.array([0.1, 0.2, 0.4]))
    return tmp_path / "u.npz"


def test_terms_are_those_of_a_box_of_length_one(file: Path) -> None:
    source = open_source(file, mapping=mapping("u_t = -u*u_x + 0.5*u_xx - u_xxxx + sin(x)"))
    assert source.family == "evolution_1d"
    assert source.grid.extent == ((0.0, 1.0),)
    known = dict(zip(source.coefficient_names, source.coefficients[0], strict=True))
    wanted = {"self_advection": -1 / 4, "diffusion": 0.5 / 16, "biharmonic": -1 / 256, "forcing": 1.0}
    assert {name: value for name, value in known.items() if value} == pytest.approx(wanted)
    static = source.read_static(np.arange(N), 1)
    assert static is not None
    x = -1 + 4 * (np.arange(X) + 0.5) / X
    np.testing.assert_allclose(static[1, :, 0], np.sin(x), rtol=1e-6)
    coarse = source.read_static(np.arange(1), 4)
    assert coarse is not None
    np.testing.assert_array_equal(coarse[0, :, 0], static[0, ::4, 0])
    np.testing.assert_array_equal(source.read(np.arange(N))[..., 0], np.load(file)["u"])


def test_coefficients_of_each_trajectory(file: Path) -> None:
    source = open_source(
        file, mapping=mapping("u_t = a*u_x + nu*u_xx", coefficients={"nu": {"array": "nu"}, "a": -2}),
    )  # fmt: skip
    known = dict(zip(source.coefficient_names, source.coefficients.T, strict=True))
    np.testing.assert_allclose(known["diffusion"], np.array([0.1, 0.2, 0.4]) / 16)
    np.testing.assert_allclose(known["transport"], -2 / 4)
    assert source.read_static(np.arange(1), 1) is not None
    again = open_source(file, coefficients={"a": -2.0}, mapping=mapping("u_t = a*u_x + 0.1*u_xx"))
    np.testing.assert_allclose(again.coefficients[0], source.coefficients[0])


def test_an_equation_of_a_family_is_of_that_family(tmp_path: Path) -> None:
    values = np.zeros((N, T, X), np.float32)
    np.savez(tmp_path / "u.npz", u=values, t=0.1 * np.arange(T), x=(np.arange(X) + 0.5) / X, nu=[0.1, 0.2, 0.4])
    columns = {"nu": {"array": "nu"}}
    source = open_source(tmp_path / "u.npz", mapping=mapping("u_t = nu*u_xx - u*u_x", coefficients=columns))
    assert (source.family, source.coefficient_names) == ("burgers", ("nu",))
    np.testing.assert_allclose(source.coefficients[:, 0], math.pi * np.array([0.1, 0.2, 0.4]))
    assert source.read_static(np.arange(1), 1) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"symbols": "u_t = nu*u_xx"}, "missing_coefficient"),
        ({"symbols": "u_t = (u_xx"}, "invalid_equation"),
        ({"symbols": "u_t = -u_xx"}, "ill_posed"),
        ({"symbols": "u_t = u_xx", "coefficients": {"nu": 1}}, "unknown_coefficient"),
        ({"symbols": "u_t = u_xx + a*sin(x)", "coefficients": {"a": {"array": "nu"}}}, "invalid_equation"),
        ({"symbols": "u_t = a*u_xx", "coefficients": {"a": {"array": "t"}}}, "wrong_attribute"),
        ({"symbols": "u_t = u_xx", "family": "burgers"}, "invalid_mapping"),
        ({"symbols": "u_t = u_xx", "static_fields": [{"name": "f", "array": "f"}]}, "invalid_mapping"),
        ({"symbols": "u_t = u_xx", "fields": [{"name": "h", "array": "u"}]}, "missing_dataset"),
    ],
)
def test_refused(file: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UserError) as refused:
        open_source(file, mapping=mapping(**changes))
    assert refused.value.code == code
