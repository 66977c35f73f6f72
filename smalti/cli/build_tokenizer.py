"""Building the tokenizer of a recipe without training it."""

from __future__ import annotations

from argparse import ArgumentError
from pathlib import Path

from jsonargparse import ArgumentParser

from smalti.cli.recipes import load_recipes
from smalti.errors import SmaltiError
from smalti.tokenizers.tokenizer import Tokenizer


def build_tokenizer(*names: str | Path) -> Tokenizer:
    """Build the tokenizer of one or several recipes with random weights, as `smalti fit -c NAME ...` does.

    >>> build_tokenizer("quickstart.yaml", "{model: {tokenizer: {stride: 16}}}").encoder.stride
    (1, 16, 16)

    Args:
        names: recipes in the order in which they override each other, see `smalti.cli.recipes.load_recipes`.

    Raises:
        SmaltiError: a recipe does not exist, has no tokenizer, or describes no valid tokenizer.
    """
    tokenizer = (load_recipes(*names).get("model") or {}).get("tokenizer")
    if tokenizer is None:
        raise SmaltiError(f"The recipe {', '.join(map(str, names))} has no tokenizer: give a model recipe.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tokenizer", type=Tokenizer)
    try:
        config = parser.parse_object({"tokenizer": tokenizer})
    except ArgumentError as error:
        # Each line of the message is one level of the path to the wrong setting.
        raise SmaltiError(" ".join(str(error).split())) from error
    return parser.instantiate(config).tokenizer
