"""Settings from the environment: prefixed, typed, refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import InvalidConfig
from services.common.settings import PlatformSettings, load, port_of


def test_defaults_stay_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_HOST", raising=False)
    monkeypatch.delenv("TUTELAGE_DATA_DIR", raising=False)
    settings = load(PlatformSettings)
    assert settings.host == "127.0.0.1"
    assert settings.data_dir == Path("var")


def test_the_repository_is_in_the_data_folder_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_POLICY_REPOSITORY", raising=False)
    monkeypatch.setenv("TUTELAGE_DATA_DIR", "/data")
    assert load(PlatformSettings).policies_url == "/data/policies"
    monkeypatch.setenv("TUTELAGE_POLICY_REPOSITORY", "s3://bucket/policies")
    assert load(PlatformSettings).policies_url == "s3://bucket/policies"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_REDIS_URL", "")
    assert load(PlatformSettings).redis_url is None


def test_every_wrong_variable_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_GRACE_S", "soon")
    monkeypatch.setenv("TUTELAGE_LOG_FORMAT", "xml")
    with pytest.raises(InvalidConfig) as refused:
        load(PlatformSettings)
    assert "TUTELAGE_GRACE_S='soon'" in str(refused.value)
    assert "TUTELAGE_LOG_FORMAT='xml'" in str(refused.value)


@pytest.mark.parametrize("address", ["localhost:50051", "127.0.0.1:50051", "[::1]:50051"])
def test_the_port_of_an_address(address: str) -> None:
    assert port_of(address) == 50051


@pytest.mark.parametrize("address", ["localhost", "", "host:", "host:0", "host:65536", "host:x"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidConfig, match="expected host:port"):
        port_of(address)
