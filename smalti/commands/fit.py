"""`smalti fit`, `check`, `validate` and `test`: train a tokenizer from recipes, check a recipe, and measure checkpoints."""

from __future__ import annotations

import os
import sys

from smalti.cli.training_arguments import prepare_arguments
from smalti.extensions import UNTRUSTED_OPTION, UNTRUSTED_VARIABLE


def run(name: str, arguments: list[str]) -> int:
    """Run the training command line.

    Args:
        name: fit, check, validate or test.
        arguments: the arguments after the command's name.

    Raises:
        SmaltiError: a recipe does not exist, or a setting is wrong.
    """
    if UNTRUSTED_OPTION not in arguments:
        return _run(name, arguments)
    before = os.environ.get(UNTRUSTED_VARIABLE, "")
    os.environ[UNTRUSTED_VARIABLE] = "1"
    try:
        return _run(name, [argument for argument in arguments if argument != UNTRUSTED_OPTION])
    finally:
        os.environ[UNTRUSTED_VARIABLE] = before


def _run(name: str, arguments: list[str]) -> int:
    prepared = prepare_arguments(name, arguments)
    # Set in sys.argv and not passed as an argument, because the processes that DDP launches repeat sys.argv.
    sys.argv[1:] = [name, *prepared]

    from smalti.cli.training_cli import run_training  # imports Lightning, which takes seconds

    run_training(name, arguments)
    return 0
