"""Fixtures for tests of commands."""

import pytest

from smalti.__main__ import main


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
