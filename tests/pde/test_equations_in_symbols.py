"""Equations in symbols: what is understood, what it means, and where a mistake is pointed at."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ups_server.errors import UserError
from ups_server.pde.equation import TERMS, Equation, recognise
from ups_server.pde.grammar import MAX_CHARACTERS, parse_equation


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("u_t = -u*u_x + 0.01*u_xx + u*(1-u)", {"self_advection": -1, "diffusion": 0.01, "logistic": 1}),
        ("u_t + u u_x = 0.01 u_xx", {"self_advection": -1, "diffusion": 0.01}),
        ("u_t + (u^2/2)_x = 0.01 u_xx", {"self_advection": -1, "diffusion": 0.01}),
        ("u_t = (0.01*u_x - u**2/2)_x", {"self_advection": -1, "diffusion": 0.01}),
        ("u_t = (0.2*u + 0.01*u_x)_x", {"transport": 0.2, "diffusion": 0.01}),
        ("2*u_t = 4*u_xx", {"diffusion": 2}),
        ("u_xx = u_t", {"diffusion": 1}),
        ("u_t + 6*u*u_x + u_xxx = 0", {"self_advection": -6, "dispersion": -1}),
        ("u_t = -u u_x - u_xx - u_xxxx", {"self_advection": -1, "diffusion": -1, "biharmonic": -1}),
        ("u_{t} = u_{xx} + u - u^3", {"diffusion": 1, "bistable": 1}),
        ("∂u/∂t = 0.1 ∂²u/∂x² − 3·u", {"diffusion": 0.1, "decay": -3}),
        ("du/dt = d^2u/dx^2 + 2 u (1 - u)", {"diffusion": 1, "logistic": 2}),
        ("∂u/∂t + ∂/∂x(u²/2) = 1e-2 ∂_xx(u)", {"self_advection": -1, "diffusion": 0.01}),
        ("u_t = d/dx (2 u) - u²", {"transport": 2, "quadratic": -1}),
        ("u_t = u(1-u)(u-0.3)", {"decay": -0.3, "quadratic": 1.3, "cubic": -1}),
        ("u_t = 3u - 3u^2", {"logistic": 3}),
        ("u_t = -(u - 1)*u*u", {"quadratic": 1, "cubic": -1}),
        ("u_t = (u_x + u)_xx - u_xxx", {"diffusion": 1}),
        ("u_t = -pi*u_x/2", {"transport": -math.pi / 2}),
        ("u_t = [u_x]_x", {"diffusion": 1}),
        ("u_t = u_xx - u_xx", {}),
        ("0 = u_t + 2^2 u_x", {"transport": -4}),
        ("u_t = u^1 u_x^1", {"self_advection": 1}),
    ],
)
def test_what_is_understood(text: str, terms: dict[str, float]) -> None:
    assert dict(parse_equation(text).coefficients) == pytest.approx(terms)


def test_named_coefficients_have_values() -> None:
    text = "u_t = -c*u_x + nu u_xx + D_4*u_xxxx"
    equation = parse_equation(text, {"c": 0.5, "nu": 0.01, "D_4": -1e-6})
    assert dict(equation.coefficients) == {"transport": -0.5, "diffusion": 0.01, "biharmonic": -1e-6}
    with pytest.raises(UserError) as caught:
        parse_equation(text, {"c": 0.5, "D_4": 1.0})
    assert (caught.value.code, caught.value.got["character"]) == ("missing_coefficient", 16)
    with pytest.raises(UserError) as caught:
        parse_equation("u_t = c u_x", {"c": 0.5, "d": 1.0})
    assert (caught.value.code, caught.value.got) == ("unknown_coefficient", ["d"])


def test_forcing_is_a_function_of_x() -> None:
    equation = parse_equation("u_t = 0.1*u_xx + a*sin(2*pi*x)^2 - 2*exp(-(x - 0.5)^2/0.01) + 1", {"a": 3.0})
    x = np.linspace(0.0, 1.0, 33)
    assert equation.names == ("diffusion", "forcing")
    assert equation.forcing is not None
    expected = 3.0 * np.sin(2 * np.pi * x) ** 2 - 2.0 * np.exp(-((x - 0.5) ** 2) / 0.01) + 1.0
    np.testing.assert_allclose(equation.forcing.at(x), expected, atol=1e-12)
    again = parse_equation(str(equation))
    assert again.forcing is not None
    np.testing.assert_allclose(again.forcing.at(x), expected, rtol=1e-9, atol=1e-9)
    other = parse_equation("2*u_t - 4*cos(x)/(2 + x) = 0")
    assert other.forcing is not None
    np.testing.assert_allclose(other.forcing.at(x), 2 * np.cos(x) / (2 + x))
    assert parse_equation("u_t = u_xx + sin(x) - sin(x)*1").names == ("diffusion", "forcing")
    assert parse_equation("u_t = u_xx + 0*sin(x)").names == ("diffusion",)


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("u_t = -u*u_x + 0.01*u_xy", 21),
        ("u_t = u_xx + $", 14),
        ("u_t = u_xx +", 13),
        ("u_t = u_xx * * u", 14),
        ("u_t = (u_xx", 12),
        ("u_t u_xx", 9),
        ("u_xx = u", 1),
        ("u_t = u*u_xx", 7),
        ("u_t = 0.1 u_xx + u^4", 18),
        ("u_t = u_xx + u/(1+u)", 14),
        ("u_t = u_xx + sin(u)", 14),
        ("u_t = x*u_x", 7),
        ("u_t = sin(x) u", 7),
        ("u_t = u_xx/0", 7),
        ("u_t = u^0.5", 7),
        ("u_t = (sin(x))_x", 7),
        ("u_t*u = u_x", 1),
        ("u_t = ∂u²/∂x", 7),
        ("u_t = ∂²u/∂x", 7),
        ("u_t = u_xxxxx", 7),
        ("", 1),
    ],
)
def test_a_mistake_is_pointed_at(text: str, character: int) -> None:
    with pytest.raises(UserError) as caught:
        parse_equation(text)
    assert caught.value.got["character"] == character
    assert f"(character {character})" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "u_t = " + "(" * 100 + "u" + ")" * 100,
        "u_t = u" + "+u" * 230,
        "u_t = " + "u " * 240,
        "u_t = (u+u_x+u_xx+u_xxx+u_xxxx)^8",
        "u_t = u" + "^8" * 5,
        "u_t = " + "-" * 300 + "u",
        "u_t = u_xx" + " " * MAX_CHARACTERS,
        "u_t = 9^9^9^9^9 u",
        "u_t = __import__('os').system('true')",
    ],
)
def test_what_would_take_long_or_do_harm_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_equation(text)
    assert caught.value.code in ("invalid_equation", "missing_coefficient")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ux_t=+-*/^()[]0.19 dn∂²sin", max_size=40))
def test_no_text_is_more_than_a_users_mistake(text: str) -> None:
    with contextlib.suppress(UserError):
        parse_equation(text)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([name for name in TERMS if name != "forcing"]),
        st.floats(1e-7, 5.0).flatmap(lambda value: st.sampled_from([value, -value])),
        max_size=4,
    )
)
def test_the_canonical_text_reads_as_the_equation_it_was_written_from(coefficients: dict[str, float]) -> None:
    equation = Equation.of(coefficients)
    again = parse_equation(str(equation))
    assert again.names == equation.names
    assert dict(again.coefficients) == pytest.approx(dict(equation.coefficients), rel=1e-9)


@pytest.mark.parametrize(
    ("text", "family", "coefficients"),
    [
        ("u_t + u u_x = 0.01 u_xx", "burgers", {"nu": math.pi * 0.01}),
        ("u_t + 0.7 u_x = 0", "advection", {"beta": 0.7}),
        ("u_t = 0.5 u_xx + u (1 - u)", "diffusion_reaction_1d", {"nu": 0.5, "rho": 1.0}),
        ("u_t + 2 u u_x = 0.01 u_xx", "evolution_1d", {"self_advection": -2.0, "diffusion": 0.01}),
        ("u_t = 0.01 u_xx", "evolution_1d", {"diffusion": 0.01}),
        ("u_t = 0.01 u_xx + sin(x)", "evolution_1d", {"diffusion": 0.01, "forcing": 1.0}),
    ],
)
def test_families_are_recognised(text: str, family: str, coefficients: dict[str, float]) -> None:
    found = recognise(parse_equation(text))
    assert found.family == family
    assert found.coefficients == pytest.approx(coefficients)
