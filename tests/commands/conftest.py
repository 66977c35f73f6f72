"""Fixtures for tests of commands."""

import pytest

from smalti.__main__ import main
from smalti.eval import pretrained_weights


@pytest.fixture
def error_message(capsys):
    """Return a function that runs a command, checks that it fails with exit code 2, and returns its error message."""

    def run(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith(f"smalti {arguments[0]}: error: ")
        return message

    return run


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Simulate a machine without weights of metric networks and without network access."""

    def download(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(pretrained_weights, "_failures", {})
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))
    monkeypatch.delenv("SMALTI_WEIGHTS", raising=False)
