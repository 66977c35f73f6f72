"""Modules that remember their constructor arguments, so that an exported tokenizer can be rebuilt.

The configuration of a module has the structure of its YAML: the public path of the class and its arguments. Every
`Configurable` has a configuration without any code in its constructor.
"""

from __future__ import annotations

import inspect
import json
import sys
from importlib import import_module
from typing import Any, Self

from torch import nn

from smalti.errors import SmaltiError
from smalti.legacy import upgrade_config

Config = dict[str, Any]
"""{"class_path": "package.Class", "init_args": {...}}. An argument that is a module is a nested configuration."""

_TRUSTED_PREFIX = "smalti."


class Configurable(nn.Module):
    """A module that remembers its constructor arguments.

    Arguments are values that JSON can represent, or other `Configurable` modules. The constructor must store the latter
    under the name of the argument.
    """

    _arguments: dict[str, Any]
    _class: type[Configurable]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments for `get_config`."""
        module = super().__new__(cls)
        # bind_partial: copying and unpickling call this without arguments and restore `_arguments` afterwards.
        bound = inspect.signature(cls.__init__).bind_partial(module, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        # `get_config` reads child modules from the attributes: a child may have been replaced since construction.
        plain = {name: None if isinstance(value, Configurable) else value for name, value in arguments.items()}
        object.__setattr__(module, "_arguments", plain)
        object.__setattr__(module, "_class", cls)  # sharding (FSDP2) replaces the class of the object
        return module

    def __init__(self) -> None:
        super().__init__()


def public_path(cls: type) -> str:
    """Return the shortest path from which a class can be imported, such as `smalti.tokenizers.WeTokEncoder`.

    Configurations contain this path instead of the path of the defining module, because classes may move between modules.

    Args:
        cls: a class that is defined at the top level of a module.
    """
    parts = cls.__module__.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def get_config(module: Configurable) -> Config:
    """Return the configuration of a module, from which `from_config` builds the same architecture with random weights.

    Raises:
        SmaltiError: an argument is not a value that JSON can represent.
    """
    arguments: dict[str, Any] = {}
    for name, value in module._arguments.items():
        child = getattr(module, name, None)
        if isinstance(child, Configurable):
            arguments[name] = get_config(child)
            continue
        try:
            arguments[name] = _to_json(value)
        except TypeError:
            raise SmaltiError(
                f"The argument '{name}' of {type(module).__name__} is a {type(value).__name__}, which cannot be written to "
                "a configuration: pass a number, a string, a list, or a Configurable that the constructor stores under the "
                "name of the argument."
            ) from None
    return {"class_path": public_path(module._class), "init_args": arguments}


def from_config(config: Config) -> Configurable:
    """Build a module with random weights from its configuration.

    Only classes of `smalti`, and classes whose module is already imported, are built: a configuration from an untrusted
    source cannot make Python import anything else.

    Args:
        config: the result of `get_config`, by this version of Smalti or an earlier one.

    Raises:
        SmaltiError: the configuration is malformed, its class does not exist or is not a `Configurable`, or the class does
            not accept the arguments.
    """
    return _build(upgrade_config(config))


def normalize_config(config: Config) -> Config:
    """Return a configuration as this version writes it: with current names, and with defaults filled in.

    Two configurations describe the same module if and only if they are equal after normalization.

    Raises:
        SmaltiError: see `from_config`.
    """
    return _normalize(upgrade_config(config))


def _normalize(config: Config) -> Config:
    cls = _find_class(config)
    arguments = _bind(cls, config.get("init_args") or {})
    return {
        "class_path": public_path(cls),
        "init_args": {
            name: _normalize(value) if _is_config(value) else _to_json(value) for name, value in arguments.items()
        },
    }


def _to_json(value: Any) -> Any:
    """Convert a value to its JSON representation, in which tuples become lists."""
    return json.loads(json.dumps(value))


def _build(config: Config) -> Configurable:
    cls = _find_class(config)
    arguments = {
        name: _build(value) if _is_config(value) else value for name, value in (config.get("init_args") or {}).items()
    }
    _bind(cls, arguments)
    try:
        return cls(**arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # an argument of a wrong type
        raise SmaltiError(f"{public_path(cls)} cannot be built from its configuration: {error}.") from error


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" in value


def _bind(cls: type[Configurable], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with defaults filled in."""
    try:
        bound = inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise SmaltiError(f"{public_path(cls)} cannot be built from its configuration: {error}.") from error
    bound.apply_defaults()
    return dict(bound.arguments)


def _find_class(config: Any) -> type[Configurable]:
    if not (isinstance(config, dict) and isinstance(config.get("class_path"), str)):
        raise SmaltiError("The configuration of the tokenizer has no class_path: it was not written by smalti.")
    if not isinstance(config.get("init_args") or {}, dict):
        raise SmaltiError(f"The arguments of {config['class_path']} in a configuration are not named: it is damaged.")
    path: str = config["class_path"]
    module_name, _, class_name = path.rpartition(".")
    if path.startswith(_TRUSTED_PREFIX):
        _import(module_name, class_name)
    cls = getattr(sys.modules.get(module_name), class_name, None)
    if cls is None and path.startswith(_TRUSTED_PREFIX):
        raise _missing_class(path)
    if cls is None:
        module_name = module_name or path
        raise SmaltiError(
            f"The tokenizer uses {path}, which is not part of smalti: import {module_name} before loading (on the command "
            f"line, pass --import {module_name})."
        )
    if not (isinstance(cls, type) and issubclass(cls, Configurable)):
        raise SmaltiError(f"{path} is not a part of a tokenizer: the configuration was not written by smalti.")
    return cls


def _import(module_name: str, class_name: str) -> None:
    try:
        getattr(import_module(module_name), class_name, None)  # some classes are imported when they are first used
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("smalti"):
            raise SmaltiError(
                f"{class_name} requires {error.name}, which is not installed: run `pip install {error.name}`."
            ) from error
        raise _missing_class(f"{module_name}.{class_name}") from error


def _missing_class(path: str) -> SmaltiError:
    return SmaltiError(f"This version of smalti has no {path}: install the version that wrote the file.")
