"""The entry point: help, unknown commands, and output into a pipe that is closed early."""

import os
import subprocess
import sys

import pytest

from smalti.__main__ import main


def test_help_version_and_recipes(capsys):
    assert main(["--help"]) == 0
    assert "tokenize" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main(["recipes"]) == 0
    assert "wetok/f16.yaml" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys):
    assert main(["fitt"]) == 2
    assert "There is no command 'fitt'" in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = "import sys; from smalti.__main__ import main; main(['--help']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("False")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_the_command_without_an_error_message(unbuffered):
    """This happens in `smalti recipes | head`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "smalti", "recipes"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(write_end)
    assert (result.returncode, result.stderr) == (1, "")
