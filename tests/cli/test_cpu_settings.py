"""Commands set how threads wait and what malloc keeps, unless the environment does."""

import os

import pytest

from smalti.cli import cpu_settings


@pytest.fixture
def thresholds(monkeypatch):
    """The calls that set the thresholds of malloc."""
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "OMP_WAIT", "GOMP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that the variable is restored after the test
    monkeypatch.delenv("GOMP_SPINCOUNT")
    calls = []
    monkeypatch.setattr(cpu_settings, "_set_malloc_thresholds", lambda: calls.append(True))
    monkeypatch.setattr(cpu_settings.sys, "platform", "linux")
    return calls


def test_the_settings_apply_by_default(thresholds):
    cpu_settings.apply_cpu_settings()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    assert thresholds


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_a_variable_for_threads_has_priority(name, value, thresholds, monkeypatch):
    monkeypatch.setenv(name, value)
    cpu_settings.apply_cpu_settings()
    assert os.environ.get("GOMP_SPINCOUNT") == ("7" if name == "GOMP_SPINCOUNT" else None)


def test_a_variable_for_malloc_has_priority(thresholds, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    cpu_settings.apply_cpu_settings()
    assert not thresholds
