"""The entry point: help, unknown commands, and output into a pipe that is closed early."""

import os
import shlex
import subprocess
import sys

import pytest
import torch

from smalti.__main__ import _COMMANDS, main


def test_help_version_and_recipes(capsys):
    assert main(["--help"]) == 0
    assert "tokenize" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main(["recipes"]) == 0
    assert "wetok/f16.yaml" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys):
    assert main(["fitt"]) == 2
    assert "There is no command 'fitt': did you mean fit?" in capsys.readouterr().err
    assert main(["--import", "math", "recipes"]) == 2
    assert "smalti COMMAND --import" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [name for name in _COMMANDS if name not in ("fit", "check", "find-lr", "validate", "test")]
)
def test_the_help_of_a_command_ends_with_valid_examples(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "--import MODULE" in text
    examples = text.partition("\nexamples:\n")[2].splitlines()
    assert 2 <= len(examples) <= 3
    assert all(len(line) < 120 for line in examples)
    for line in examples:
        words = shlex.split(line)
        name, *arguments = words[words.index("-m") + 2 if "-m" in words else 1 :]
        if name == command and name != "recipes":  # it is valid up to the missing files
            assert main([name, *arguments]) == 2
            error = capsys.readouterr().err
            assert "--help" not in error, error


@pytest.mark.parametrize(("command", "remedy"), [("fit", "--data.batch_size"), ("evaluate", "--tile")])
def test_too_little_memory_gives_one_sentence(command, remedy, capsys, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has a total capacity")

    monkeypatch.setattr(f"smalti.commands.{command}.run", fail)
    assert main([command]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"smalti {command}: error: There is not enough memory (CUDA out of memory): ")
    assert remedy in error


def test_a_file_without_permission_gives_one_sentence(capsys, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied", "secret")

    monkeypatch.setattr("smalti.commands.recipes.recipe_names", deny)
    assert main(["recipes"]) == 2
    assert "no permission to access secret" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "(pid 7) was killed (Killed); memory may be short"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "(pid 7, 8) was killed; memory may be short"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
            "shared memory. Please try to raise your shared memory limit.",
            "shared memory is too small: increase it",
        ),
        ("Caught RuntimeError in DataLoader worker process 0.", None),
    ],
)
def test_a_killed_data_worker_gives_one_sentence(capsys, monkeypatch, message, expected):
    """PyTorch may raise it anywhere, for example in a training step."""

    def die(*_):
        raise RuntimeError(message)

    monkeypatch.setattr("smalti.commands.recipes.run", die)
    if expected is None:
        with pytest.raises(RuntimeError, match="Caught"):
            main(["recipes"])
        return
    assert main(["recipes"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


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
