"""The command: `smalti COMMAND ...`, or `python -m smalti COMMAND ...`."""

from __future__ import annotations

import sys
from importlib import import_module

from smalti.errors import SmaltiError
from smalti.version import __version__

_COMMANDS = {
    "fit": ("fit", "train a tokenizer from recipes"),
    "validate": ("fit", "measure a checkpoint on the recipe's validation data"),
    "test": ("fit", "measure a checkpoint on the recipe's test data"),
    "evaluate": ("evaluate", "PSNR, SSIM, LPIPS, rFID or rFVD and codebook use on a set of images or videos"),
    "reconstruct": ("file_commands", "images, videos or folders of them through a tokenizer and back"),
    "tokenize": ("file_commands", "images and videos to token files"),
    "detokenize": ("file_commands", "token files to images and videos"),
    "export": ("export", "a training checkpoint to a folder that smalti.load reads"),
    "import": ("import_published", "a published checkpoint to a folder that smalti.load reads"),
    "recipes": ("recipes", "list the recipes that are installed"),
}
"""Each command's file in smalti.commands, imported only when it is called, and what it does."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments after `smalti`; None: those of the process.

    Returns:
        The exit code: 0; 2 for bad input, which one sentence on standard error explains; 130 when interrupted (1 in
        training, which saves first).
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"smalti {__version__}")
        return 0
    name, *rest = arguments
    if name not in _COMMANDS:
        return _fail("smalti", f"There is no command '{name}': the commands are {', '.join(_COMMANDS)}.")
    try:
        return import_module(f"smalti.commands.{_COMMANDS[name][0]}").run(name, rest)
    except SmaltiError as error:
        return _fail(f"smalti {name}", str(error))
    except KeyboardInterrupt:
        return 130


def _help() -> str:
    lines = "\n".join(f"  {name:<12} {text}" for name, (_, text) in _COMMANDS.items())
    return (
        f"smalti {__version__}: train, evaluate and export visual tokenizers\n\n"
        f"usage: smalti COMMAND [options]\n\ncommands:\n{lines}\n\n"
        "`smalti COMMAND --help` tells a command's options."
    )


def _fail(where: str, message: str) -> int:
    print(f"{where}: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
