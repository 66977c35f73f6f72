"""`smalti import`: a publisher's checkpoint to a folder that smalti.load reads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smalti.commands.export import report
from smalti.errors import SmaltiError


def run(name: str, arguments: list[str]) -> int:
    """Import strictly, then export.

    Raises:
        SmaltiError: see `from_published`; or a file that cannot be read.
    """
    from smalti.tokenizers.checkpoints import fingerprint, save
    from smalti.tokenizers.importers import families, from_published

    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="Bring a published model in, every weight of it or none, and write it as smalti's own.",
    )
    parser.add_argument("family", help=f"whose release it is: {', '.join(families())}")
    parser.add_argument("checkpoint", type=Path, help="the publisher's .ckpt, .pt or .safetensors file")
    parser.add_argument("--config", type=Path, required=True, help="the publisher's YAML or JSON configuration")
    parser.add_argument("--out", "-o", type=Path, required=True, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an exported tokenizer that is there")
    options = parser.parse_args(arguments)

    config = _read_config(options.config)
    tokenizer = from_published(options.family, config, _read_weights(options.checkpoint))
    origin = {
        "family": options.family,
        "checkpoint": options.checkpoint.name,
        "checkpoint_sha256": fingerprint(options.checkpoint),
        "config": config,
    }
    save(tokenizer, options.out, provenance=origin, overwrite=options.overwrite)
    report(options.out)
    return 0


def _read_config(file: Path) -> dict[str, Any]:
    """The model's keys of a configuration, whether they stand alone or inside a training configuration."""
    import yaml

    if not file.is_file():
        raise SmaltiError(f"There is no configuration {file}: give the YAML file that the publisher released.")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SmaltiError(f"{file} is no YAML ({' '.join(str(error).split())}): give the publisher's file.") from error
    for path in (("model", "init_args"), ("model", "params"), ()):
        inner = config
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            return inner
    raise SmaltiError(f"{file} holds no configuration of a model: give the publisher's file.")


def _read_weights(file: Path) -> Mapping[str, Any]:
    """The state dict of a checkpoint, whether it stands alone or inside a training checkpoint."""
    from torch import Tensor

    from smalti.tokenizers.checkpoints import read_checkpoint, read_safetensors

    if file.suffix == ".safetensors":
        return read_safetensors(file)
    checkpoint = read_checkpoint(file)
    state = checkpoint.get("state_dict", checkpoint)
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise SmaltiError(f"{file} holds no state dict, neither alone nor under 'state_dict'.")
    return state
