"""Settings come from keywords or the environment, and are documented."""

import pytest
from pydantic import ValidationError

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


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    assert Settings.model_fields[name].description
