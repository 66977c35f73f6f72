"""Reading a publisher's configuration, with one-sentence errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from smalti.errors import SmaltiError


@contextmanager
def config_errors(hint: str) -> Iterator[None]:
    """Turn the errors of code that reads a configuration into sentences.

    Args:
        hint: what to do if a key is missing, as the end of a sentence: "a WeTok configuration has ddconfig, ...".

    Raises:
        SmaltiError: a key is missing, or a value has an unexpected type.
    """
    try:
        yield
    except KeyError as error:
        raise SmaltiError(f"The configuration has no {error}: {hint}.") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise SmaltiError(f"The configuration has an unexpected value ({error}): correct it.") from None


def check_constants(config: Mapping[str, Any], constants: Mapping[str, Any], models: str) -> None:
    """Check options that have one value in all released models, if the configuration has them.

    Args:
        config: the publisher's configuration.
        constants: the values in the released models.
        models: the models, for the error message.

    Raises:
        SmaltiError: a value differs.
    """
    for name, value in constants.items():
        if config.get(name, value) != value:
            raise SmaltiError(f"{name} is {config[name]!r}, but it is {value!r} in {models}.")
