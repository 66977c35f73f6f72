"""Building the data module of a recipe without training on it."""

from __future__ import annotations

from argparse import ArgumentError
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentParser

from smalti.cli.recipes import load_recipes
from smalti.data import ImageData, MixedData, Source, VideoData  # noqa: F401 - classes are found if they are imported
from smalti.errors import SmaltiError


def build_data(*names: str) -> pl.LightningDataModule:
    """Build the data module of one or several recipes, as `smalti fit -c NAME ...` does.

    Args:
        names: recipes in the order in which they override each other, see `smalti.cli.recipes.load_recipes`.

    Raises:
        SmaltiError: a recipe does not exist, has no data, or names data that cannot be opened.
    """
    settings = load_recipes(*names).get("data")
    if settings is None:
        raise SmaltiError(f"The recipe {', '.join(names)} has no data: add a data section, or pass --data SOURCE.")
    errors: list[SmaltiError] = []

    def build_source(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return class_type(*args, **kwargs)
        except SmaltiError as error:
            errors.append(error)  # jsonargparse tries the other types that a source can have, and loses the error
            raise

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    try:
        config = parser.parse_object({"data": settings})
        return parser.instantiate(config, instantiators=[(build_source, Source, True)]).data
    except (ArgumentError, ValueError) as error:
        if errors:
            raise errors[0] from None
        raise SmaltiError(" ".join(str(error).split())) from error
