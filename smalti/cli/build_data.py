"""Building the data module of a recipe without training on it."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable
from typing import Any, TypeVar

import lightning.pytorch as pl
from jsonargparse import ArgumentParser

from smalti.cli.recipes import load_recipes
from smalti.data import ImageData, MixedData, MultiSizeImageData, Source, VideoData  # noqa: F401 - classes are found if they are imported
from smalti.errors import SmaltiError

T = TypeVar("T")


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
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    try:
        config = parser.parse_object({"data": settings})
        return instantiate_sources(lambda builders: parser.instantiate(config, instantiators=builders).data)
    except (ArgumentError, ValueError) as error:
        raise SmaltiError(" ".join(str(error).split())) from error


def instantiate_sources(instantiate: Callable[[list[Any]], T]) -> T:
    """Instantiate data, and raise the error of a source itself: jsonargparse tries its other types, and loses the error.

    Args:
        instantiate: instantiates the data with the `instantiators` of jsonargparse that it gets.

    Raises:
        SmaltiError: a source cannot be opened.
    """
    errors: list[SmaltiError] = []

    def build_source(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return class_type(*args, **kwargs)
        except SmaltiError as error:
            errors.append(error)
            raise

    try:
        return instantiate([(build_source, Source, True)])
    except (ArgumentError, ValueError):
        if errors:
            raise errors[0] from None
        raise
