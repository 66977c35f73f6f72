"""`smalti import`: convert a publisher's checkpoint to a folder for `smalti.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.cli.options import add_output_options, check_exists
from smalti.cli.outputs import print_example, print_files
from smalti.cli.parser import CommandParser
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from smalti.tokenizers.importers.published import ImportReport
    from smalti.tokenizers.tokenizer import Tokenizer

_EXAMPLES = (
    "smalti import wetok their.ckpt --config their.yaml --out wetok-f16",
    "smalti import ltx ltx-video-2b-v0.9.5.safetensors --config config.json --out ltx-video",
    "smalti import diffusers:stabilityai/sd-vae-ft-mse --out sd-vae",
)
_CONFIG_PATHS = (("model", "init_args"), ("model", "params"), ())
"""Keys that lead to the configuration of the model in the publishers' files; () is the top level."""


def run(name: str, arguments: list[str]) -> int:
    """Import a published checkpoint, export it, and print what happened to every weight.

    Raises:
        SmaltiError: see `load_family`, `from_published` and `load_diffusers`; or a file cannot be read or written.
    """
    from smalti.tokenizers.checkpoints import DIFFUSERS, provenance, save
    from smalti.tokenizers.importers import families, find_family
    from smalti.tokenizers.importers.diffusers_folder import import_folder

    listing = "; ".join(f"{family}: {find_family(family).description}" for family in families())
    parser = CommandParser(
        name,
        "Convert a published checkpoint to a folder for smalti.load. The import fails if a weight is missing, unexpected "
        "or of another shape.",
        _EXAMPLES,
        f"Families: {listing}.",
    )
    parser.add_argument(
        "family",
        help=f"family of the model: {', '.join(families())}, or the dotted path of your own Family object, such as "
        "my_package.my_release.FAMILY; or diffusers:FOLDER or diffusers:HUB_ID, which has a configuration",
    )
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help="the publisher's .ckpt, .pt, .jit or .safetensors file"
    )
    parser.add_argument_group("input").add_argument(
        "--config", type=Path, metavar="PATH", help="the publisher's YAML or JSON configuration"
    )
    add_output_options(parser, "folder to write to", "replace an existing export")
    options = parser.parse(arguments)
    if options.family.startswith(DIFFUSERS):
        if options.checkpoint is not None or options.config is not None:
            raise SmaltiError(
                f"{options.family} has weights and a configuration: leave out the checkpoint and --config."
            )
        tokenizer, report = import_folder(options.family)
        origin = provenance(options.family)
    else:
        tokenizer, report, origin = _import_files(options)
    save(tokenizer, options.out, provenance=origin, overwrite=options.overwrite)
    print(f"{options.family}: {report}")
    print_files(options.out)
    print_example(tokenizer, options.out)
    return 0


def _import_files(options: argparse.Namespace) -> tuple[Tokenizer, ImportReport, dict[str, Any]]:
    """Import a checkpoint of a family. Return the tokenizer, what happened to its weights, and where it comes from."""
    from smalti.tokenizers.checkpoints import fingerprint
    from smalti.tokenizers.importers import find_family, load_family
    from smalti.tokenizers.importers.published import import_published

    family = load_family(options.family) if "." in options.family else find_family(options.family)
    if options.checkpoint is None or options.config is None:
        missing = "the checkpoint" if options.checkpoint is None else "--config"
        raise SmaltiError(f"The family {options.family} needs a checkpoint and its configuration: add {missing}.")
    check_exists(options.checkpoint, "checkpoint")
    check_exists(options.config, "configuration file")
    config = _read_config(options.config)
    tokenizer, report = import_published(family, config, _read_weights(options.checkpoint))
    origin = {
        "family": family.name,
        "checkpoint": options.checkpoint.name,
        "checkpoint_sha256": fingerprint(options.checkpoint),
        "config": config,
    }
    return tokenizer, report, origin


def _read_config(file: Path) -> dict[str, Any]:
    """Read the configuration of a model from a YAML or JSON file. The file may be a complete training configuration.

    Raises:
        SmaltiError: the file does not exist, is not valid YAML, or contains no configuration.
    """
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SmaltiError(f"{file} is not valid YAML ({reason}): pass the publisher's file.") from error
    for path in _CONFIG_PATHS:
        section = config
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            return section
    raise SmaltiError(f"{file} contains no model configuration: pass the publisher's file.")


def _read_weights(file: Path) -> Mapping[str, Tensor]:
    """Read a state dict from a file. The file may be a complete training checkpoint.

    Raises:
        SmaltiError: the file does not exist, is damaged, or contains no state dict.
    """
    from torch import Tensor

    from smalti.tokenizers.weight_files import is_torchscript, read_checkpoint, read_safetensors, read_torchscript

    if file.suffix == ".safetensors":
        return read_safetensors(file)
    if is_torchscript(file):
        return read_torchscript(file)
    checkpoint = read_checkpoint(file)
    state_dict = checkpoint.get("state_dict", checkpoint)
    if not (isinstance(state_dict, dict) and state_dict and all(isinstance(v, Tensor) for v in state_dict.values())):
        raise SmaltiError(
            f"{file} contains no state dict, neither at the top level nor under 'state_dict': pass the publisher's file."
        )
    return state_dict
