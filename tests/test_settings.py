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


def test_devices_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setenv("UPS_DEVICES", "cpu:0, cpu:2-4")
    found = Settings().engine_devices
    assert [(device.name, device.cores, device.torch_name) for device in found] == [
        ("cpu:0", (0,), "cpu"),
        ("cpu:2-4", (2, 3, 4), "cpu"),
    ]
    assert [device.torch_name for device in Settings(devices=("cuda:1", "cuda:0")).engine_devices] == [
        "cuda:1",
        "cuda:0",
    ]
    assert Settings(devices=()).engine_devices == ()


def test_replicas_stand_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPS_DEVICES", "ray:3")
    found = Settings(device="cuda")
    assert (found.engine_devices, found.replicas, found.engines) == ((), 3, 3)
    assert [Settings(devices=devices).engines for devices in ((), ("cuda:0", "cuda:1"))] == [1, 2]


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("cpu", "no device"),
        ("cuda:0,tpu:1", "no device"),
        ("cpu:7,cpu:8", "cpu:8"),
        ("cpu:3-1", "cpu:3-1"),
        ("cpu:0-3,cpu:3", "share"),
        ("cuda:0,cuda:0", "share"),
        ("cpu:0,cuda:0", "one kind"),
        ("ray:0", "ray:n"),
        ("ray:2,cpu:0", "alone"),
    ],
)
def test_devices_that_cannot_be(devices: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setenv("UPS_DEVICES", devices)
    with pytest.raises(UserError) as caught:
        Settings.given()
    assert caught.value.code == "invalid_setting"
    assert said in str(caught.value)
    monkeypatch.setenv("UPS_DEVICES", "cuda:0,cuda:1")
    with pytest.raises(UserError, match="not both"):
        Settings.given(device="cuda")
