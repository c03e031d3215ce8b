"""Settings come from keywords or the environment, and are documented."""

import pytest
from pydantic import ValidationError

from ups_server.errors import UserError
from ups_server.settings import Settings


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPS_PORT", "1234")
    monkeypatch.setenv("UPS_MAX_STEPS", "7")
    assert (Settings().port, Settings().max_steps, Settings(port=1).port) == (1234, 7, 1)


def test_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"prot": 80})
    with pytest.raises(ValidationError):
        setattr(Settings(), "port", 1)  # noqa: B010 (mypy's view of a frozen field)
    with pytest.raises(ValidationError):
        Settings(port=-1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("UPS_PORT", "many", ["UPS_PORT", "many"]),
        ("UPS_DEVICE", "abacus", ["UPS_DEVICE", "abacus", "cuda"]),
        ("UPS_CORS_ORIGINS", "no JSON", ["cors_origins"]),
    ],
)
def test_a_setting_that_is_not_valid_is_one_sentence(
    name: str, value: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        Settings.given(threads=1)
    assert caught.value.code == "invalid_setting"
    assert [word for word in said if word not in str(caught.value)] == []


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    assert Settings.model_fields[name].description
