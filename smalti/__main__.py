"""The entry point: `smalti COMMAND ...`, or `python -m smalti COMMAND ...`."""

from __future__ import annotations

import logging
import os
import select
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from smalti.cli.cpu_settings import apply_cpu_settings
from smalti.errors import SmaltiError, explain_killed_worker, explain_out_of_memory
from smalti.extensions import import_requested_modules
from smalti.version import __version__

_COMMANDS = {
    "fit": ("fit", "train a tokenizer from recipes"),
    "finetune": ("finetune", "train an existing tokenizer on your images or videos, and compare before and after"),
    "check": ("fit", "check what the first steps of a recipe train, and how much memory they need"),
    "find-lr": ("find_lr", "try learning rates for a recipe, each for a few dozen steps"),
    "validate": ("fit", "evaluate a checkpoint on the validation data of its recipe"),
    "test": ("fit", "evaluate a checkpoint on the test data of its recipe"),
    "doctor": ("doctor", "say what is wrong with a checkpoint, and what to try"),
    "evaluate": ("evaluate", "measure PSNR, SSIM, LPIPS, rFID or rFVD and codebook usage on images or videos"),
    "compare": ("compare", "compare the reports of several evaluations"),
    "reconstruct": ("reconstruct", "encode and decode images, videos or folders of them"),
    "tokenize": ("tokenize", "convert images and videos to token files"),
    "tokenize-dataset": ("tokenize_dataset", "tokenize images or videos in bulk, for training other models"),
    "detokenize": ("detokenize", "convert token files to images and videos"),
    "reduce": ("reduce", "write the latents of images and videos in fewer tokens, for a language model"),
    "vocabulary": ("vocabulary", "describe the tokens of a tokenizer as ids of a language model"),
    "ids": ("ids", "convert a token file to ids of a language model, and back"),
    "export": ("export", "convert a training checkpoint to a folder for smalti.load"),
    "verify": ("verify", "compare exported programs with their tokenizer on real samples"),
    "demo": ("demo", "open a page to try a tokenizer: reconstructions, tokens, edits"),
    "import": ("import_published", "convert a published checkpoint to a folder for smalti.load"),
    "recipes": ("recipes", "list the installed recipes"),
}
"""The module of each command in `smalti.commands`, imported when the command runs, and a summary, by command name."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments after `smalti`; None for `sys.argv`.

    Returns:
        The exit code: 0 for success; 1 if the reader of standard output has closed the pipe; 2 for bad input, with one
        sentence on standard error; 128 plus the number of the signal that ended it: 130 for Ctrl-C, and 143 for SIGTERM
        in training. Training saves a checkpoint first.
    """
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # a closed pipe cannot be handled when Python flushes at exit
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        # Discard the buffered output. Python would try to write it at exit and report a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"smalti {__version__}")
        return 0
    name, *rest = arguments
    if name not in _COMMANDS:
        if name.startswith("-"):
            return _fail("smalti", f"Options follow the command: smalti COMMAND {name} ...")
        matches = get_close_matches(name, _COMMANDS, n=1)
        hint = f"did you mean {matches[0]}? The" if matches else "the"
        return _fail("smalti", f"There is no command '{name}': {hint} commands are {', '.join(_COMMANDS)}.")
    try:
        if str(Path.cwd()) not in sys.path:  # a user's own module is found in the working directory, as with python -m
            sys.path.append(str(Path.cwd()))
        apply_cpu_settings()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends packages that no tokenizer uses
        rest = import_requested_modules(rest)
        return import_module(f"smalti.commands.{_COMMANDS[name][0]}").run(name, rest)
    except SmaltiError as error:
        return _fail(f"smalti {name}", str(error))
    except PermissionError as error:
        return _fail(f"smalti {name}", f"You have no permission to access {error.filename}: check its permissions.")
    except RuntimeError as error:
        training = _COMMANDS[name][0] in ("fit", "find_lr", "finetune")
        known = explain_killed_worker(error) or explain_out_of_memory(error, training=training)
        if known is None:
            raise
        return _fail(f"smalti {name}", str(known))
    except KeyboardInterrupt:
        return 130


def _help() -> str:
    lines = "\n".join(f"  {name:<18} {summary}" for name, (_, summary) in _COMMANDS.items())
    return (
        f"smalti {__version__}: train, evaluate and export visual tokenizers\n\n"
        f"usage: smalti COMMAND [options]\n\ncommands:\n{lines}\n\n"
        "examples:\n"
        "  smalti fit -c quickstart.yaml\n"
        "  smalti export runs/version_0/checkpoints/last.ckpt --out my-tokenizer\n"
        "  smalti reconstruct photo.jpg --out reconstruction.png --tokenizer my-tokenizer\n\n"
        "Every command also takes --import MODULE (or the environment variable SMALTI_IMPORT), which imports your own\n"
        "module first. Tokenizers that use its classes need it.\n\n"
        "Run `smalti COMMAND --help` for the options and examples of a command."
    )


def _fail(where: str, message: str) -> int:
    print(f"{where}: error: {message}", file=sys.stderr)
    return 2


def _stdout_is_closed() -> bool:
    """Return whether the reader of standard output, such as `head`, has closed the pipe."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # errors are reported for every event mask
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
